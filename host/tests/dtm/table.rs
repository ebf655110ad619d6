//! README.md lists every case, and every case that it lists has its test.

use std::{fs, path::Path};

use wasaga_testkit::table;

/// The saga tests of DTM 1.19.
const SAGAS: [&str; 43] = [
    "SagaNormal",
    "SagaRollback",
    "SagaOngoingSucceed",
    "SagaFailed",
    "SagaAbnormal",
    "SagaEmptyUrl",
    "SagaOptionsRetryOngoing",
    "SagaOptionsRetryError",
    "SagaOptionsTimeout",
    "SagaGlobalTransWithRequestTimeout",
    "SagaOptionsNormalWait",
    "SagaOptionsCommittedOngoingWait",
    "SagaOptionsRollbackWait",
    "SagaHeaders",
    "SagaHeadersYes1",
    "SagaGlobalTransWithRetryLimitYes",
    "SagaGlobalTransWithRetryLimitNo",
    "SagaConNormal",
    "SagaConRollbackNormal",
    "SagaConRollbackOrder",
    "SagaConRollbackOrder2",
    "SagaConCommittedOngoing",
    "SagaCompatibleNormal",
    "SagaBarrierNormal",
    "SagaBarrierRollback",
    "SagaBarrier2Normal",
    "SagaBarrierRedisNormal",
    "SagaBarrierRedisRollback",
    "SagaBarrierMongoNormal",
    "SagaBarrierMongoRollback",
    "SagaGrpcNormal",
    "SagaGrpcRollback",
    "SagaGrpcCurrent",
    "SagaGrpcCurrentOrder",
    "SagaGrpcCommittedOngoing",
    "SagaGrpcNormalWait",
    "SagaGrpcEmptyUrl",
    "SagaGrpcWithGlobalTransRequestTimeout",
    "SagaGrpcOptionsRollbackWait",
    "SagaGrpcHeaders",
    "SagaGrpcCronHeaders",
    "SagaGrpcBarrierNormal",
    "SagaGrpcBarrierRollback",
];

/// Its tests of API and store.
const OTHERS: [&str; 25] = [
    "APIVersion",
    "APIQuery",
    "APIAll",
    "APIScanKV",
    "APIQueryKV",
    "DtmMetrics",
    "APIResetCronTime",
    "APIForceStoppedNormal",
    "APIForceStoppedAbnormal",
    "APIResetNextCronTime",
    "StoreSave",
    "StoreChangeStatus",
    "StoreLockTrans",
    "StoreResetCronTime",
    "StoreResetTransGlobalCronTime",
    "StoreUpdateBranches",
    "UpdateBranchAsync",
    "GrpcPanic",
    "MsgWebhook",
    "MsgWebhookError",
    "MsgJrpcAbnormal",
    "MustGenGid",
    "BaseHttp",
    "TopicNormal",
    "ConcurrentUpdateTopic",
];

/// What DTM does not test.
const BEYOND: usize = 25;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dtm"))
}

#[test]
fn every_case_is_in_the_table_and_has_its_test() {
    let readme = fs::read_to_string(folder().join("README.md")).unwrap();
    let mut tests = table::tests_in_folder(folder());
    tests.extend(table::tests_in_folder(&folder().with_file_name("grpc")));
    assert!(tests.len() > 80, "{tests:?}");
    let mut listed = Vec::new();
    for row in table::rows(&readme) {
        let [case, test, dtm, ours, deviation] = row[..] else { continue };
        let test = test.trim_matches('`');
        assert!(tests.contains(test), "{case} names the test {test:?}, which is not there");
        assert!(!dtm.is_empty() && !ours.is_empty(), "{row:?}");
        assert!(ours.starts_with("the same") || !deviation.is_empty(), "{case} deviates without a reason");
        listed.push(case.to_owned());
    }
    let beyond = (1..=BEYOND).map(|number| number.to_string());
    let wanted: Vec<_> = SAGAS.into_iter().chain(OTHERS).map(str::to_owned).chain(beyond).collect();
    assert_eq!(listed, wanted);
}
