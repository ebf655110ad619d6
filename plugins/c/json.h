// A strict reader of JSON (RFC 8259) for single members of an object, and a writer for strings.
// All text is UTF-8, which the host guarantees.
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A text without a zero byte at its end.
struct text {
  const char *at;
  size_t length;
};

// Frees a text that one of these functions made.
void text_free(struct text text);

enum json_member { JSON_INVALID, JSON_ABSENT, JSON_FOUND };

// Checks that a text is one JSON object and finds a member: `value` becomes the JSON text of its value. Of several
// members with that name the last one counts.
enum json_member json_member(struct text object, const char *name, struct text *value);

// Reads a value as a 64-bit integer. False for any other value, and for one with a fraction or an exponent.
bool json_integer(struct text value, int64_t *integer);

// Reads a value as a string, without its quotes and escapes. False for any other value. The caller frees `string`.
bool json_string(struct text value, struct text *string);

// Writes a string as JSON, quoted and escaped. The caller frees the result.
struct text json_quote(struct text string);

#endif
