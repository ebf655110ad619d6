/**
 * Decides about a payload. Does not depend on WebAssembly, so neither do the tests.
 * @module
 */

/** The largest amount that is accepted. */
const AMOUNT_MAX = 500;

/** Longest name of a customer, in bytes. The host limits the size of values and outputs. */
const CUSTOMER_BYTES_MAX = 1000;

/**
 * The line to print, and either the reason of a rejection or the record to store, as JSON text.
 * @typedef {{ line: string, rejected: string, record?: undefined }
 *         | { line: string, record: string, rejected?: undefined }} Decision
 */

/**
 * Decides about a payload such as `{"amount": 100, "customer": "Zoë"}`.
 * @param {string} payload
 * @returns {Decision}
 */
export function decide(payload) {
  const request = parse(payload);
  if (!request) {
    return { line: "try: invalid request", rejected: "invalid request" };
  }
  const { amount, customer } = request;
  if (amount > AMOUNT_MAX) {
    return { line: `try amount=${amount}: simulated failure`, rejected: "simulated failure" };
  }
  return { line: `try amount=${amount} customer=${customer}`, record: JSON.stringify({ amount, customer }) };
}

/**
 * The amount and the customer of a valid payload.
 * @param {string} payload
 * @returns {{ amount: number, customer: string } | undefined}
 */
function parse(payload) {
  let request;
  try {
    request = JSON.parse(payload);
  } catch {
    return undefined;
  }
  if (typeof request !== "object" || request === null) {
    return undefined;
  }
  const { amount, customer = "" } = request;
  // JavaScript's numbers are exact for integers up to 2^53 only. They do not show how an amount was written: 1.0 and 1e0
  // are 1 here, while most other languages read them as fractions.
  if (!Number.isSafeInteger(amount) || amount < 0 || typeof customer !== "string" || !customer.isWellFormed()) {
    return undefined;
  }
  if (new TextEncoder().encode(customer).length > CUSTOMER_BYTES_MAX) {
    return undefined;
  }
  return { amount, customer };
}
