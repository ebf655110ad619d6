// Decides about a payload. Does not depend on WebAssembly, so neither does the test.
#ifndef DECISION_H
#define DECISION_H

#include "json.h"

enum decision { ACCEPTED, INVALID, TOO_LARGE };

// The record of an accepted payload. The caller frees the customer's name.
struct record {
  int64_t amount;
  struct text customer;
};

// Reads a payload and decides. Fills in `record` unless the result is INVALID.
enum decision decide(struct text payload, struct record *record);

// The record as JSON text, which the caller frees.
struct text record_json(const struct record *record);

#endif
