/*
 * Command lines, one table a program: long options with help, `--help`, `--version`, and a clear error (exit
 * 2) that names a wrong flag and points to --help. A thin layer over getopt_long(3).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

struct option_spec {
    const char *name;     /* without the dashes */
    const char *argument; /* its name in --help; NULL for a flag */
    const char *help;
    const char **value; /* set to the argument (borrowed from argv) … */
    bool *flag;         /* … or to true */
    bool required;
};

struct program_spec {
    const char *name;
    const char *summary;  /* one line */
    const char *operands; /* "FILE…" for the usage line; NULL when none are taken */
    const struct option_spec *options;
    size_t options_count;
};

/*
 * Parse argv. On 0, *ret_operand is the index of the first operand. --help and --version print and exit(0).
 * E_INVALID_ARGUMENT with the words to print otherwise; nothing is printed here.
 */
int options_parse(const struct program_spec *program, int argc, char **argv, int *ret_operand,
                  struct error *err);
