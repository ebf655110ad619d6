// A strict reader of JSON (RFC 8259) for the few values that a branch looks at, and the writer of a string.
// All text is UTF-8, as the host hands it over.
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Some bytes of text, not ended by a zero byte.
struct text {
  const char *at;
  size_t length;
};

// Frees a text that one of these functions made.
void text_free(struct text text);

enum json_member { JSON_INVALID, JSON_ABSENT, JSON_FOUND };

// Checks that a text is one JSON object, and finds a member of it: `value` becomes the value's own JSON text. Of
// several members of that name the last one counts.
enum json_member json_member(struct text object, const char *name, struct text *value);

// Reads a value as a 64-bit integer. False for any other value, and for one with a fraction or an exponent.
bool json_integer(struct text value, int64_t *integer);

// Reads a value as a string, without its quotes and escapes. False for any other value. `string` is to be freed.
bool json_string(struct text value, struct text *string);

// Writes a string as JSON: quoted, and escaped where it must be. The result is to be freed.
struct text json_quote(struct text string);

#endif
