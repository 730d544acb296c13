/*
 * Command lines from a table, over getopt_long(3). Owns nothing but getopt's global state while it runs:
 * called by main() before threads start.
 */
#include "common/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/strings.h"

/* Values of struct option: above every character, so that a short option is never taken for one. */
enum { VALUE_HELP = 256, VALUE_VERSION, VALUE_FIRST };

static const char *option_name(const struct program_spec *program, int value)
{
    switch (value) {
    case VALUE_HELP:
        return "help";
    case VALUE_VERSION:
        return "version";
    }
    return program->options[value - VALUE_FIRST].name;
}

static void print_option(const char *name, const char *argument, const char *help)
{
    _cleanup_free_ char *left = str_format("--%s%s%s", name, argument ? "=" : "", argument ? argument : "");

    printf("  %-28s %s\n", left ? left : name, help);
}

static void print_help(const struct program_spec *program)
{
    printf("Usage: %s [OPTION…]%s%s\n%s\n\nOptions:\n", program->name, program->operands ? " " : "",
           program->operands ? program->operands : "", program->summary);
    for (size_t i = 0; i < program->options_count; i++)
        print_option(program->options[i].name, program->options[i].argument, program->options[i].help);
    print_option("help", NULL, "print this and exit");
    print_option("version", NULL, "print the version and exit");
}

static struct option *getopt_table(const struct program_spec *program)
{
    struct option *table = calloc(program->options_count + 3, sizeof(*table));

    if (!table)
        return NULL;
    for (size_t i = 0; i < program->options_count; i++) {
        table[i].name = program->options[i].name;
        table[i].has_arg = program->options[i].argument ? required_argument : no_argument;
        table[i].val = VALUE_FIRST + (int)i;
    }
    table[program->options_count] = (struct option){"help", no_argument, NULL, VALUE_HELP};
    table[program->options_count + 1] = (struct option){"version", no_argument, NULL, VALUE_VERSION};
    return table;
}

/* Words for getopt's ':' and '?', which leave what they mean in optopt. */
static int wrong_option(const struct program_spec *program, int result, char **argv, struct error *err)
{
    const char *name = program->name;

    if (result == ':')
        return error_set(err, E_INVALID_ARGUMENT, "option --%s needs a value; see %s --help",
                         option_name(program, optopt), name);
    if (optopt >= VALUE_HELP)
        return error_set(err, E_INVALID_ARGUMENT, "option --%s takes no value; see %s --help",
                         option_name(program, optopt), name);
    if (optopt > 0)
        return error_set(err, E_INVALID_ARGUMENT, "unknown option -%c; see %s --help", optopt, name);
    return error_set(err, E_INVALID_ARGUMENT, "unknown or ambiguous option %s; see %s --help",
                     argv[optind - 1], name);
}

static void take_option(const struct program_spec *program, int value)
{
    const struct option_spec *option = &program->options[value - VALUE_FIRST];

    if (option->argument)
        *option->value = optarg;
    else
        *option->flag = true;
}

static int check_complete(const struct program_spec *program, const bool *seen, int argc, char **argv,
                          struct error *err)
{
    for (size_t i = 0; i < program->options_count; i++) {
        if (program->options[i].required && !seen[i])
            return error_set(err, E_INVALID_ARGUMENT, "option --%s is required; see %s --help",
                             program->options[i].name, program->name);
    }
    if (!program->operands && optind < argc)
        return error_set(err, E_INVALID_ARGUMENT, "unexpected operand \"%s\"; see %s --help", argv[optind],
                         program->name);
    return E_OK;
}

int options_parse(const struct program_spec *program, int argc, char **argv, int *ret_operand,
                  struct error *err)
{
    _cleanup_free_ bool *seen = calloc(program->options_count + 1, sizeof(*seen));
    _cleanup_free_ struct option *table = getopt_table(program);
    int result, r;

    if (!seen || !table)
        return error_errno(err, ENOMEM, "cannot read the command line");
    optind = 0; /* glibc: begin anew, also after a call for another command line */
    opterr = 0;
    while ((result = getopt_long(argc, argv, ":", table, NULL)) != -1) {
        if (result == VALUE_HELP) {
            print_help(program);
            exit(EXIT_SUCCESS);
        }
        if (result == VALUE_VERSION) {
            printf("%s %s\n", program->name, MOORING_VERSION);
            exit(EXIT_SUCCESS);
        }
        if (result < VALUE_FIRST)
            return wrong_option(program, result, argv, err);
        take_option(program, result);
        seen[result - VALUE_FIRST] = true;
    }
    r = check_complete(program, seen, argc, argv, err);
    if (r == E_OK)
        *ret_operand = optind;
    return r;
}
