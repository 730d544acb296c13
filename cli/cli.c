/* What comes before a command runs: common options, configuration, exit statuses. Run by main(). */
#include "cli/cli.h"

#include <stdlib.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/config.h"
#include "common/options.h"
#include "common/strings.h"

#define CONFIG_DEFAULT "/etc/mooring/mooring.json"
#define TIMEOUT_MAX_S 86400

/* ---- options that every command takes ---- */

static int take_output(struct cli *cli, const char *value, struct error *err)
{
    if (str_equal(value, "table"))
        cli->output = CLI_TABLE;
    else if (str_equal(value, "json"))
        cli->output = CLI_JSON;
    else
        return error_set(err, E_INVALID_ARGUMENT, "-o takes table or json, not \"%s\"", value);
    return E_OK;
}

static int take_config(struct cli *cli, const char *value, struct error *err)
{
    (void)err;
    cli->config_path = value;
    return E_OK;
}

static int take_timeout(struct cli *cli, const char *value, struct error *err)
{
    char *end;
    long seconds = strtol(value, &end, 10);

    if (end == value || *end != '\0' || seconds < 1 || seconds > TIMEOUT_MAX_S)
        return error_set(err, E_INVALID_ARGUMENT, "--timeout takes seconds from 1 to %d, not \"%s\"",
                         TIMEOUT_MAX_S, value);
    cli->timeout_ms = (unsigned)seconds * 1000;
    return E_OK;
}

static const struct {
    const char *name;
    int (*take)(struct cli *cli, const char *value, struct error *err);
} common_options[] = {
    {"-o", take_output},
    {"--output", take_output},
    {"--config", take_config},
    {"--timeout", take_timeout},
};

/* How many of argv's words this option takes: 0 when it is none of ours. */
static int take_option(struct cli *cli, char **argv, int *ret_words, struct error *err)
{
    *ret_words = 0;
    if (str_equal(argv[0], "--retry")) {
        cli->retry = true;
        *ret_words = 1;
        return E_OK;
    }
    for (size_t i = 0; i < ARRAY_SIZE(common_options); i++) {
        size_t length = strlen(common_options[i].name);
        const char *rest = argv[0] + length;

        if (strncmp(argv[0], common_options[i].name, length) != 0)
            continue;
        if (*rest == '\0') {
            if (!argv[1])
                return error_set(err, E_INVALID_ARGUMENT, "option %s needs a value", argv[0]);
            *ret_words = 2;
            return common_options[i].take(cli, argv[1], err);
        }
        if (*rest == '=' || length == 2) {
            *ret_words = 1;
            return common_options[i].take(cli, *rest == '=' ? rest + 1 : rest, err);
        }
    }
    return E_OK;
}

int cli_take_options(struct cli *cli, int *argc, char **argv, struct error *err)
{
    int kept = 1;

    for (int i = 1; i < *argc;) {
        int words = 0;
        int r = E_OK;

        if (str_equal(argv[i], "--")) {
            while (i < *argc)
                argv[kept++] = argv[i++];
            break;
        }
        r = take_option(cli, argv + i, &words, err);
        if (r != E_OK)
            return r;
        if (words == 0)
            argv[kept++] = argv[i++];
        i += words;
    }
    argv[kept] = NULL;
    *argc = kept;
    return E_OK;
}

/* ---- configuration ---- */

static int read_config(struct cli *cli, struct error *err)
{
    json_t *servers = NULL, *tls = NULL;
    const struct config_key keys[] = {
        {.name = "controller", .type = CONFIG_STRING, .value = &cli->controller},
        {.name = "node", .type = CONFIG_STRING, .value = &cli->node},
        {.name = "servers", .type = CONFIG_ARRAY, .value = &servers},
        {.name = "tls", .type = CONFIG_OBJECT, .value = &tls},
    };
    int r = config_read(cli->config, cli->config_path, keys, ARRAY_SIZE(keys), err);

    if (r == E_OK && servers)
        r = server_list_read(servers, cli->config_path, &cli->servers, err);
    if (r == E_OK && tls) {
        r = server_tls_read(tls, cli->config_path, &cli->tls.ca_file, &cli->tls.cert_file, &cli->tls.key_file,
                            err);
        cli->has_tls = r == E_OK;
    }
    return r;
}

int cli_load_config(struct cli *cli, struct error *err)
{
    int r;

    cli->controller = "unix:///run/mooring/controller.sock";
    cli->node = "unix:///run/mooring/node.sock";
    if (!cli->config_path)
        cli->config_path = getenv("MOORING_CONFIG");
    if (!cli->config_path && access(CONFIG_DEFAULT, F_OK) == 0)
        cli->config_path = CONFIG_DEFAULT;
    if (!cli->config_path)
        return E_OK;
    r = config_load(cli->config_path, &cli->config, err);
    if (r == E_NOT_FOUND)
        return error_set(err, E_INVALID_ARGUMENT,
                         "configuration %s is not there; see mooring(1) for its form", cli->config_path);
    return r == E_OK ? read_config(cli, err) : r;
}

void cli_done(struct cli *cli)
{
    server_list_done(&cli->servers);
    json_decref(cli->config);
    *cli = (struct cli){0};
}

/* ---- exit statuses ---- */

static enum cli_status status_of_condition(enum error_code code)
{
    switch (code) {
    case E_OK:
        return CLI_OK;
    case E_INVALID_ARGUMENT:
        return CLI_USAGE;
    case E_NOT_FOUND:
        return CLI_NOT_FOUND;
    case E_BUSY:
    case E_STALE:
    case E_UNAVAILABLE:
    case E_DEADLINE:
    case E_CANCELLED:
        return CLI_RETRY;
    case E_EXISTS:
    case E_PRECONDITION:
    case E_READ_ONLY:
    case E_WRITE_FAILED:
    case E_MISCOMPARE:
        return CLI_STATE;
    case E_UNAUTHENTICATED:
    case E_PERMISSION:
        return CLI_PERMISSION;
    case E_NO_SPACE:
    case E_EXHAUSTED:
    case E_OUT_OF_RANGE:
        return CLI_LIMIT;
    case E_UNIMPLEMENTED:
    case E_CORRUPT:
        return CLI_FAILED;
    }
    return CLI_FAILED;
}

enum cli_status cli_status(int code)
{
    if (code == CLI_E_PARTIAL)
        return CLI_PARTIAL;
    return code < 0 ? CLI_FAILED : status_of_condition((enum error_code)code);
}

/* ---- a command's own options ---- */

int cli_parse(const struct cli_usage *usage, int argc, char **argv, int *ret_operand, struct error *err)
{
    const struct program_spec program = {
        .name = usage->command,
        .summary = usage->summary,
        .operands = usage->operands,
        .options = usage->options,
        .options_count = usage->options_count,
    };
    int operand = 0;
    int r = options_parse(&program, argc, argv, &operand, err);

    if (r != E_OK)
        return r;
    if (argc - operand < usage->operands_min)
        return error_set(err, E_INVALID_ARGUMENT, "%s needs %s; see %s --help", usage->command,
                         usage->operands, usage->command);
    if (argc - operand > usage->operands_max)
        return error_set(err, E_INVALID_ARGUMENT, "unexpected operand \"%s\"; see %s --help",
                         argv[operand + usage->operands_max], usage->command);
    *ret_operand = operand;
    return E_OK;
}
