import assert from "node:assert/strict";
import { test } from "node:test";
import { decide } from "./decide.js";

test("a valid request is recorded", () => {
  assert.deepEqual(decide('{"amount": 100, "customer": "Zoë 😀", "note": [1]}'), {
    line: "try amount=100 customer=Zoë 😀",
    record: '{"amount":100,"customer":"Zoë 😀"}',
  });
});

test("the customer may be missing", () => {
  assert.equal(decide('{"amount": 0}').record, '{"amount":0,"customer":""}');
});

test("a customer has up to 1000 bytes", () => {
  const payload = (length) => JSON.stringify({ amount: 1, customer: "é".repeat(length) });
  assert.equal(decide(payload(500)).rejected, undefined);
  assert.equal(decide(payload(501)).rejected, "invalid request");
});

test("only amounts up to 500 are accepted", () => {
  assert.equal(decide('{"amount": 500}').rejected, undefined);
  assert.deepEqual(decide('{"amount": 501}'), {
    line: "try amount=501: simulated failure",
    rejected: "simulated failure",
  });
});

test("anything else is invalid", () => {
  for (const payload of [
    "",
    "nonsense",
    "[".repeat(100_000),
    "3",
    "null",
    "[]",
    '[100, "Zoë"]',
    "{}",
    '{"amount": null}',
    '{"amount": true}',
    '{"amount": "1"}',
    '{"amount": -1}',
    '{"amount": 1.5}',
    '{"amount": 1e400}',
    '{"amount": 9223372036854775808}',
    '{"amount": 1, "customer": null}',
    '{"amount": 1, "customer": "\\ud800"}',
  ]) {
    assert.deepEqual(decide(payload), { line: "try: invalid request", rejected: "invalid request" }, payload.slice(0, 40));
  }
});

test("a large payload", () => {
  const payload = JSON.stringify({ amount: 1, note: "x".repeat(2 ** 20) });
  assert.equal(decide(payload).record, '{"amount":1,"customer":""}');
});
