/*
 * mooring: the operators' command line. Finds the command in a table, runs it, prints its error, and turns
 * its result into the exit status that mooring(1) documents.
 */
#include <signal.h>
#include <stdio.h>

#include "cli/cli.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"

#define TIMEOUT_DEFAULT_MS 30000

static void print_help(FILE *file, const char *group)
{
    fprintf(file, "Usage: mooring [OPTION…] %s COMMAND [ARGUMENT…]\n\n", group ? group : "GROUP");
    for (size_t i = 0; i < cli_commands_count; i++) {
        char words[40];

        if (group && !str_equal(group, cli_commands[i].group))
            continue;
        snprintf(words, sizeof(words), "%s %s", cli_commands[i].group, cli_commands[i].name);
        fprintf(file, "  %-22s %s\n", words, cli_commands[i].summary);
    }
    fputs(
        "\nOptions of every command:\n"
        "  -o, --output=table|json  how to print\n"
        "  --config=FILE            the configuration, else $MOORING_CONFIG, else /etc/mooring/mooring.json\n"
        "  --timeout=SECONDS        of each call (30)\n"
        "  --retry                  try again while someone is away or busy, until the timeout\n"
        "  --help, --version\n\n"
        "`mooring GROUP COMMAND --help` tells more. Exit status: 0 done, 1 failed, 2 wrong usage, 3 not "
        "found,\n"
        "4 try again later, 5 the state forbids it, 6 done in part, 7 not permitted, 8 a limit.\n",
        file);
}

static bool known_group(const char *group)
{
    for (size_t i = 0; i < cli_commands_count; i++) {
        if (str_equal(cli_commands[i].group, group))
            return true;
    }
    return false;
}

/* --help, --version and what is missing or unknown. False: there is a command to run. */
static bool answer_early(int argc, char **argv, int *ret_status)
{
    const char *group = argc > 1 ? argv[1] : NULL;
    bool help = group && (str_equal(group, "--help") || str_equal(group, "help"));
    bool group_help = argc > 2 && (str_equal(argv[2], "--help") || str_equal(argv[2], "help"));

    *ret_status = CLI_OK;
    if (group && str_equal(group, "--version"))
        printf("mooring %s\n", MOORING_VERSION);
    else if (help || (group_help && known_group(group)))
        print_help(stdout, help ? NULL : group);
    else if (argc > 2 && cli_find(argv[1], argv[2]))
        return false;
    else {
        *ret_status = CLI_USAGE;
        if (group && !known_group(group))
            fprintf(stderr, "mooring: unknown command \"%s\"; see mooring --help\n", group);
        else if (argc > 2)
            fprintf(stderr, "mooring: unknown command \"%s %s\"; see mooring %s --help\n", group, argv[2],
                    group);
        else
            print_help(stderr, group);
    }
    return true;
}

/* Help has to work with a broken configuration too. */
static bool wants_help(int argc, char **argv)
{
    for (int i = 3; i < argc; i++) {
        if (str_equal(argv[i], "--help"))
            return true;
    }
    return false;
}

int main(int argc, char **argv)
{
    _cleanup_error_ struct error err = {0};
    struct cli cli = {.timeout_ms = TIMEOUT_DEFAULT_MS};
    const struct cli_command *command;
    int status;
    int r;

    log_init("mooring", LOG_LEVEL_ERROR);
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of the write that hits it */
    r = cli_take_options(&cli, &argc, argv, &err);
    if (r == E_OK && answer_early(argc, argv, &status))
        return status;
    if (r == E_OK && !wants_help(argc, argv))
        r = cli_load_config(&cli, &err);
    if (r == E_OK) {
        command = cli_find(argv[1], argv[2]);
        r = command->run(&cli, argc - 2, argv + 2, &err);
    }
    if (r != E_OK)
        fprintf(stderr, "mooring: %s\n", error_text(&err));
    cli_done(&cli);
    return (int)cli_status(r);
}
