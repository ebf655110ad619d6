#include "decision.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

// The largest amount that is accepted.
enum { AMOUNT_MAX = 500 };

// Longest name of a customer, in bytes. The host limits the size of values and outputs.
enum { CUSTOMER_BYTES_MAX = 1000 };

enum decision decide(struct text payload, struct record *record) {
  struct text amount, customer;
  if (json_member(payload, "amount", &amount) != JSON_FOUND) return INVALID;
  if (!json_integer(amount, &record->amount) || record->amount < 0) return INVALID;
  if (json_member(payload, "customer", &customer) == JSON_ABSENT) customer = (struct text){"\"\"", 2};
  if (!json_string(customer, &record->customer)) return INVALID;
  if (record->customer.length > CUSTOMER_BYTES_MAX) {
    text_free(record->customer);
    return INVALID;
  }
  return record->amount > AMOUNT_MAX ? TOO_LARGE : ACCEPTED;
}

struct text record_json(const struct record *record) {
  struct text customer = json_quote(record->customer);
  char *out = malloc(customer.length + 64);
  if (!out) abort();
  int length = sprintf(out, "{\"amount\":%" PRId64 ",\"customer\":%.*s}", record->amount,
                       (int)customer.length, customer.at);
  text_free(customer);
  return (struct text){out, length};
}
