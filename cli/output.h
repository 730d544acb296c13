/*
 * What a command prints: one JSON value, as it is (-o json) or as a table for people. stdout carries nothing
 * else.
 */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "cli/cli.h"

enum output_kind {
    OUTPUT_TEXT, /* strings, numbers, and arrays of strings joined by commas */
    OUTPUT_SIZE, /* bytes, as "10.0 GiB" */
    OUTPUT_BOOL, /* "yes" or "no" */
    OUTPUT_TIME, /* seconds of Unix time, 0 as "-" */
};

struct output_column {
    const char *key;   /* of the row's object */
    const char *title; /* NULL: not in the table */
    enum output_kind kind;
};

/* An array of objects, a row each. 0, or -EIO when stdout is full or closed. */
int output_rows(const struct cli *cli, FILE *file, json_t *rows, const struct output_column *columns,
                size_t columns_count, struct error *err);

/* Of a volume or snapshot: used_bytes, and of them what it shares with others and what is its alone. */
void output_add_space(json_t *object, uint64_t used_bytes, uint64_t exclusive_bytes);

/* One object: a line each column. */
int output_object(const struct cli *cli, FILE *file, json_t *object, const struct output_column *columns,
                  size_t columns_count, struct error *err);
