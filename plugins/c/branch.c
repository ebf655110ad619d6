// One step of a saga: the functions that the host calls. Nothing is freed, since an instance ends with the call.
#include "build/contained.h"
#include "decision.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The bucket is this plugin's own; no other plugin sees it.
static const char bucket_name[] = "default";

typedef exports_wasaga_saga_branch_call_t call_t;
typedef exports_wasaga_saga_branch_failure_t failure_t;
typedef wasi_keyvalue_store_error_t store_error_t;

static struct text text(contained_string_t string) { return (struct text){(const char *)string.ptr, string.len}; }

static contained_string_t string(struct text text) { return (contained_string_t){(uint8_t *)text.at, text.length}; }

// The key of the step's record. A repetition of `try` writes the same key again.
static contained_string_t key_of(const call_t *call) {
  size_t length = call->gid.len + 1 + call->branch_id.len;
  char *key = malloc(length + 1);
  if (!key) abort();
  const char *gid = (char *)call->gid.ptr, *branch = (char *)call->branch_id.ptr;
  sprintf(key, "%.*s/%.*s", (int)call->gid.len, gid, (int)call->branch_id.len, branch);
  return string((struct text){key, length});
}

static bool rejected(failure_t *failure, const char *reason) {
  failure->tag = EXPORTS_WASAGA_SAGA_BRANCH_FAILURE_REJECTED;
  contained_string_dup(&failure->val.rejected, reason);
  return false;
}

static bool unavailable(failure_t *failure, const store_error_t *error) {
  failure->tag = EXPORTS_WASAGA_SAGA_BRANCH_FAILURE_UNAVAILABLE;
  switch (error->tag) {
    case WASI_KEYVALUE_STORE_ERROR_NO_SUCH_STORE: contained_string_dup(&failure->val.unavailable, "no such store"); break;
    case WASI_KEYVALUE_STORE_ERROR_ACCESS_DENIED: contained_string_dup(&failure->val.unavailable, "access denied"); break;
    default: failure->val.unavailable = error->val.other;
  }
  return false;
}

static bool write_record(contained_string_t key, contained_string_t value, store_error_t *error) {
  wasi_keyvalue_store_own_bucket_t bucket;
  contained_string_t name = string((struct text){bucket_name, strlen(bucket_name)});
  contained_list_u8_t bytes = {value.ptr, value.len};
  return wasi_keyvalue_store_open(&name, &bucket, error) &&
         wasi_keyvalue_store_method_bucket_set(wasi_keyvalue_store_borrow_bucket(bucket), &key, &bytes, error);
}

static bool delete_record(contained_string_t key, bool *found, store_error_t *error) {
  wasi_keyvalue_store_own_bucket_t own;
  contained_string_t name = string((struct text){bucket_name, strlen(bucket_name)});
  if (!wasi_keyvalue_store_open(&name, &own, error)) return false;
  wasi_keyvalue_store_borrow_bucket_t bucket = wasi_keyvalue_store_borrow_bucket(own);
  return wasi_keyvalue_store_method_bucket_exists(bucket, &key, found, error) &&
         (!*found || wasi_keyvalue_store_method_bucket_delete(bucket, &key, error));
}

// The host reads the lines, and nothing flushes them at the end of a call, since the program does not exit.
__attribute__((constructor)) static void flush_at_newline(void) { setvbuf(stdout, NULL, _IOLBF, BUFSIZ); }

bool exports_wasaga_saga_branch_try(call_t *call, contained_option_string_t *output, failure_t *failure) {
  struct record record;
  switch (decide(text(call->payload), &record)) {
    case INVALID:
      printf("try: invalid request\n");
      return rejected(failure, "invalid request");
    case TOO_LARGE:
      printf("try amount=%" PRId64 ": simulated failure\n", record.amount);
      return rejected(failure, "simulated failure");
    case ACCEPTED:
      printf("try amount=%" PRId64 " customer=%.*s\n", record.amount, (int)record.customer.length, record.customer.at);
  }

  contained_string_t key = key_of(call), json = string(record_json(&record));
  store_error_t error;
  if (!write_record(key, json, &error)) return unavailable(failure, &error);

  contained_string_t context = {NULL, 0}, message = {malloc(key.len + 7), key.len + 6};
  if (!message.ptr) abort();
  sprintf((char *)message.ptr, "wrote %.*s", (int)key.len, (char *)key.ptr);
  wasi_logging_logging_log(WASI_LOGGING_LOGGING_LEVEL_DEBUG, &context, &message);
  *output = (contained_option_string_t){.is_some = true, .val = json};
  return true;
}

// The store shows whether there is something to take back. `tried` would show it too, but only in the world `contained`:
// in the world `plugin` it is also missing if it is not known whether `try` took effect.
bool exports_wasaga_saga_branch_cancel(call_t *call, contained_string_t *tried, failure_t *failure) {
  (void)tried;
  bool found;
  store_error_t error;
  if (!delete_record(key_of(call), &found, &error)) return unavailable(failure, &error);
  printf(found ? "cancel: released\n" : "cancel: nothing to release\n");
  return true;
}
