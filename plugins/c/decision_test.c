// Run with: make test
#undef NDEBUG
#include "decision.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct text text(const char *string) { return (struct text){string, strlen(string)}; }

static void accepted(const char *payload, const char *want) {
  struct record record;
  assert(decide(text(payload), &record) == ACCEPTED);
  struct text json = record_json(&record);
  assert(json.length == strlen(want) && memcmp(json.at, want, json.length) == 0);
  text_free(json);
  text_free(record.customer);
}

static void test_accepted(void) {
  accepted("{\"amount\":100}", "{\"amount\":100,\"customer\":\"\"}");
  accepted(" { \"customer\" : \"Zoë 😀\" , \"amount\" : 500 } ", "{\"amount\":500,\"customer\":\"Zoë 😀\"}");
  accepted("{\"amount\":0,\"customer\":\"Zo\\u00eb \\ud83d\\ude00\"}", "{\"amount\":0,\"customer\":\"Zoë 😀\"}");
  accepted("{\"amount\":1,\"customer\":\"\\\"\\\\\\/\\b\\u0000\"}",
           "{\"amount\":1,\"customer\":\"\\\"\\\\/\\u0008\\u0000\"}");
  accepted("{\"\\u0061mount\":1,\"x\":[1,-2.5e+3,{\"amount\":9},[],{},null,true,false]}",
           "{\"amount\":1,\"customer\":\"\"}");
  accepted("{\"amount\":true,\"amount\":2}", "{\"amount\":2,\"customer\":\"\"}");
}

static void test_large(void) {
  enum { LENGTH = 1 << 20 };
  static char payload[LENGTH + 32] = "{\"note\":\"";
  memset(payload + strlen(payload), 'x', LENGTH);
  strcat(payload, "\",\"amount\":1}");
  accepted(payload, "{\"amount\":1,\"customer\":\"\"}");
}

static void test_invalid(void) {
  static const char *payloads[] = {
    "", "amount", "null", "100", "[]", "{}", "{\"amount\":100", "{\"amount\":100} x", "{\"amount\":100,}", "{amount:1}",
    "{\"amount\":null}", "{\"amount\":true}", "{\"amount\":\"100\"}", "{\"amount\":-1}", "{\"amount\":1.5}", "{\"amount\":1e2}",
    "{\"amount\":01}", "{\"amount\":-}", "{\"amount\":9223372036854775808}", "{\"Amount\":100}",
    "{\"amount\":1,\"customer\":null}", "{\"amount\":1,\"customer\":7}", "{\"amount\":1,\"customer\":\"\n\"}",
    "{\"amount\":1,\"customer\":\"\\ud83d\"}", "{\"amount\":1,\"customer\":\"\\x\"}", "{\"amount\":1,\"x\":[1 2]}",
    "{\"amount\":1,\"x\":NaN}", "{\"amount\":1,\"x\":.5}", "{\"amount\":1,\"x\":nul}",
  };
  struct record record;
  for (size_t i = 0; i < sizeof payloads / sizeof *payloads; i++)
    if (decide(text(payloads[i]), &record) != INVALID) {
      fprintf(stderr, "accepted: %s\n", payloads[i]);
      abort();
    }
}

static void test_long_name(void) {
  enum { LENGTH = 1000 };
  static char payload[LENGTH + 64];
  struct record record;
  int start = sprintf(payload, "{\"amount\":1,\"customer\":\"");
  memset(payload + start, 'x', LENGTH);
  strcpy(payload + start + LENGTH, "\"}");
  assert(decide(text(payload), &record) == ACCEPTED);
  text_free(record.customer);
  strcpy(payload + start + LENGTH, "x\"}");
  assert(decide(text(payload), &record) == INVALID);
}

static void test_too_deep(void) {
  static char payload[1 << 20] = "{\"amount\":1,\"x\":";
  struct record record;
  memset(payload + strlen(payload), '[', sizeof payload - 64);
  assert(decide(text(payload), &record) == INVALID);
}

static void test_too_large(void) {
  struct record record;
  assert(decide(text("{\"amount\":501}"), &record) == TOO_LARGE && record.amount == 501);
  text_free(record.customer);
}

int main(void) {
  void (*tests[])(void) = {test_accepted, test_large, test_invalid, test_long_name, test_too_deep, test_too_large};
  int count = sizeof tests / sizeof *tests;
  for (int i = 0; i < count; i++) tests[i]();
  // The first failure ends the program before this.
  printf("%d passed, 0 failed\n", count);
}
