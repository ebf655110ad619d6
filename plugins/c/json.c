#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Deepest nesting of arrays and objects. The reader is recursive, and the stack is small.
enum { DEPTH_MAX = 128 };

// The rest of the text.
struct reader {
  const char *at, *end;
};

static bool value(struct reader *r, int depth);

void text_free(struct text text) { free((char *)text.at); }

static void space(struct reader *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r')) r->at++;
}

// Reads one character if it is the next one.
static bool take(struct reader *r, char c) {
  if (r->at == r->end || *r->at != c) return false;
  r->at++;
  return true;
}

static bool word(struct reader *r, const char *word) {
  while (*word)
    if (!take(r, *word++)) return false;
  return true;
}

static bool digits(struct reader *r) {
  const char *start = r->at;
  while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
  return r->at > start;
}

static bool number(struct reader *r) {
  take(r, '-');
  if (!take(r, '0') && !digits(r)) return false;
  if (take(r, '.') && !digits(r)) return false;
  if (take(r, 'e') || take(r, 'E')) {
    if (!take(r, '+')) take(r, '-');
    return digits(r);
  }
  return true;
}

static bool hex4(struct reader *r, unsigned *code) {
  *code = 0;
  for (int i = 0; i < 4; i++) {
    if (r->at == r->end) return false;
    char c = *r->at++;
    unsigned digit = c >= '0' && c <= '9'   ? c - '0'
                     : c >= 'a' && c <= 'f' ? c - 'a' + 10
                     : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                            : 16;
    if (digit > 15) return false;
    *code = *code << 4 | digit;
  }
  return true;
}

// Reads an escape after its `\u` and writes up to four bytes of UTF-8. A character beyond 16 bits is a pair of escapes,
// and half a pair is invalid.
static size_t unicode(struct reader *r, char out[4]) {
  unsigned code, low;
  if (!hex4(r, &code)) return 0;
  if (code >= 0xd800 && code < 0xe000) {
    if (code >= 0xdc00 || !word(r, "\\u") || !hex4(r, &low) || low < 0xdc00 || low >= 0xe000) return 0;
    code = 0x10000 + ((code - 0xd800) << 10 | (low - 0xdc00));
  }
  if (code < 0x80) {
    out[0] = code;
    return 1;
  }
  size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (size_t i = length - 1; i > 0; i--, code >>= 6) out[i] = 0x80 | (code & 0x3f);
  out[0] = (length == 2 ? 0xc0 : length == 3 ? 0xe0 : 0xf0) | code;
  return length;
}

// Reads a string, and writes its value to `out` unless that is null. The value is never longer than its JSON text.
static bool string(struct reader *r, char *out, size_t *length) {
  static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
  *length = 0;
  if (!take(r, '"')) return false;
  while (!take(r, '"')) {
    if (r->at == r->end || (unsigned char)*r->at < ' ') return false;
    char bytes[4] = {*r->at++};
    size_t count = 1;
    if (bytes[0] == '\\') {
      if (take(r, 'u')) {
        count = unicode(r, bytes);
        if (count == 0) return false;
      } else {
        const char *escape = r->at < r->end ? memchr(escapes, *r->at++, sizeof escapes - 1) : NULL;
        if (!escape) return false;
        bytes[0] = meanings[escape - escapes];
      }
    }
    if (out) memcpy(out + *length, bytes, count);
    *length += count;
  }
  return true;
}

// Reads an array after its bracket.
static bool array(struct reader *r, int depth) {
  space(r);
  if (take(r, ']')) return true;
  do {
    space(r);
    if (!value(r, depth)) return false;
    space(r);
  } while (take(r, ','));
  return take(r, ']');
}

// Reads an object after its brace. If it has a member `name`, `found` becomes that member's value.
static bool object(struct reader *r, int depth, const char *name, struct text *found) {
  space(r);
  if (take(r, '}')) return true;
  do {
    space(r);
    struct text key = {r->at, 0}, decoded;
    size_t length;
    if (!string(r, NULL, &length)) return false;
    key.length = r->at - key.at;
    space(r);
    if (!take(r, ':')) return false;
    space(r);
    const char *start = r->at;
    if (!value(r, depth)) return false;
    if (name && length == strlen(name) && json_string(key, &decoded)) {
      if (memcmp(decoded.at, name, length) == 0) *found = (struct text){start, r->at - start};
      text_free(decoded);
    }
    space(r);
  } while (take(r, ','));
  return take(r, '}');
}

static bool value(struct reader *r, int depth) {
  size_t length;
  if (r->at == r->end || depth == DEPTH_MAX) return false;
  switch (*r->at) {
    case '"': return string(r, NULL, &length);
    case '{': return r->at++, object(r, depth + 1, NULL, NULL);
    case '[': return r->at++, array(r, depth + 1);
    case 't': return word(r, "true");
    case 'f': return word(r, "false");
    case 'n': return word(r, "null");
    default: return number(r);
  }
}

enum json_member json_member(struct text text, const char *name, struct text *found) {
  struct reader r = {text.at, text.at + text.length};
  *found = (struct text){NULL, 0};
  space(&r);
  if (!take(&r, '{') || !object(&r, 1, name, found)) return JSON_INVALID;
  space(&r);
  if (r.at != r.end) return JSON_INVALID;
  return found->at ? JSON_FOUND : JSON_ABSENT;
}

bool json_integer(struct text text, int64_t *integer) {
  struct reader r = {text.at, text.at + text.length};
  bool negative = take(&r, '-');
  const char *start = r.at;
  if (!digits(&r) || r.at != r.end || (*start == '0' && r.at - start > 1)) return false;
  // Negative, since the range below zero is larger by one.
  int64_t sum = 0;
  for (const char *at = start; at < r.end; at++)
    if (__builtin_mul_overflow(sum, 10, &sum) || __builtin_sub_overflow(sum, *at - '0', &sum)) return false;
  if (!negative && __builtin_sub_overflow(0, sum, &sum)) return false;
  *integer = sum;
  return true;
}

bool json_string(struct text text, struct text *decoded) {
  struct reader r = {text.at, text.at + text.length};
  char *out = malloc(text.length + 1);
  if (!out) abort();
  if (string(&r, out, &decoded->length) && r.at == r.end) {
    decoded->at = out;
    return true;
  }
  free(out);
  return false;
}

struct text json_quote(struct text text) {
  // One byte becomes at most six.
  char *out = malloc(6 * text.length + 3), *at = out;
  if (!out) abort();
  *at++ = '"';
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = text.at[i];
    if (c < ' ') {
      at += sprintf(at, "\\u%04x", c);
    } else {
      if (c == '"' || c == '\\') *at++ = '\\';
      *at++ = c;
    }
  }
  *at++ = '"';
  return (struct text){out, at - out};
}
