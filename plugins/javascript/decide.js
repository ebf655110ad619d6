/**
 * What the branch answers to a payload. Nothing here knows of WebAssembly, so the tests need none.
 * @module
 */

/** The largest amount that goes through. */
const AMOUNT_MAX = 500;

/** The most bytes of a customer's name: what the host takes as a value and as an output has a limit too. */
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
  // JavaScript's numbers hold integers up to 2^53 exactly. Beyond, they are another amount than the caller's. How an
  // amount was written they do not tell: 1.0 and 1e0 are 1 here, while most other languages take them for fractions.
  if (!Number.isSafeInteger(amount) || amount < 0 || typeof customer !== "string" || !customer.isWellFormed()) {
    return undefined;
  }
  if (new TextEncoder().encode(customer).length > CUSTOMER_BYTES_MAX) {
    return undefined;
  }
  return { amount, customer };
}
