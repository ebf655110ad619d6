// What a payload comes to. Knows nothing of WebAssembly, so its test runs as it is.
#ifndef DECISION_H
#define DECISION_H

#include "json.h"

enum decision { ACCEPTED, INVALID, TOO_LARGE };

// What is kept of a payload that was accepted. The customer's name is to be freed.
struct record {
  int64_t amount;
  struct text customer;
};

// Reads a payload, and decides. `record` is filled in unless it is INVALID.
enum decision decide(struct text payload, struct record *record);

// The record as JSON text. The result is to be freed.
struct text record_json(const struct record *record);

#endif
