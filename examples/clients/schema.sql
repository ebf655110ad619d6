-- The table of the barriers of DTM's clients in the business database: one row for each operation that was executed. The
-- clients define the names and depend on the unique key.
create database if not exists dtm_barrier;
create table if not exists dtm_barrier.barrier (
  id          bigint primary key auto_increment,
  trans_type  varchar(45)  not null default '',
  gid         varchar(128) not null default '',
  branch_id   varchar(128) not null default '',
  op          varchar(45)  not null default '',
  barrier_id  varchar(45)  not null default '',
  reason      varchar(45)  not null default '',
  create_time datetime default current_timestamp,
  update_time datetime default current_timestamp,
  unique key (gid, branch_id, op, barrier_id)
) engine = innodb;

-- The business data: each example adds its own accounts.
create database if not exists bank;
create table if not exists bank.account (name varchar(128) primary key, balance bigint not null) engine = innodb;
