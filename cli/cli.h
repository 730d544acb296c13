/*
 * What mooring's commands share: the configuration, how to print, and what an exit status means. One thread,
 * but for the calls to several storage servers at once (servers.c).
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "common/error.h"
#include "common/servers.h"
#include "rpc/rpc.h"

/* Exit statuses: mooring(1) documents them, scripts rely on them. */
enum cli_status {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,      /* wrong command line, configuration or value */
    CLI_NOT_FOUND = 3,  /* proven not to exist */
    CLI_RETRY = 4,      /* someone does not answer, or is busy: the same command may work later */
    CLI_STATE = 5,      /* the object's state forbids it, or it exists and differs */
    CLI_PARTIAL = 6,    /* done on some storage servers, not on all */
    CLI_PERMISSION = 7, /* the certificate is not accepted for this */
    CLI_LIMIT = 8,      /* no room, or a size or limit that is exceeded */
};

/* A code beside common/error.h's: a command did on some servers what it could not do on all. */
#define CLI_E_PARTIAL 2000

enum cli_output { CLI_TABLE, CLI_JSON };

struct cli {
    enum cli_output output;
    const char *config_path; /* NULL: none was found, and none was asked for */
    unsigned timeout_ms;     /* of a command's calls, each */
    bool retry;              /* try again while someone does not answer or is busy, until timeout_ms */
    json_t *config;
    const char *controller; /* CSI endpoints */
    const char *node;
    struct server_list servers;
    struct rpc_tls tls;
    bool has_tls;
};

/* Options that every command takes, anywhere on the command line: they are taken out of argv (its NULL at the
 * end moves). E_INVALID_ARGUMENT naming the option. */
int cli_take_options(struct cli *cli, int *argc, char **argv, struct error *err);

/* Load the configuration file, if there is one. */
int cli_load_config(struct cli *cli, struct error *err);
void cli_done(struct cli *cli);

/* A result code as an exit status. */
enum cli_status cli_status(int code);

struct cli_command {
    const char *group;
    const char *name;
    const char *summary; /* one line for --help */
    /* argv[0] is the command's name. */
    int (*run)(struct cli *cli, int argc, char **argv, struct error *err);
};

/* The table, and how a command is found in it: NULL when there is none. */
extern const struct cli_command cli_commands[];
extern const size_t cli_commands_count;
const struct cli_command *cli_find(const char *group, const char *name);

/* Parse a command's own options; see common/options.h. Names the command in help and errors. At most
 * operands_max operands, at least operands_min. */
struct option_spec;
struct cli_usage {
    const char *command; /* "mooring volume create" */
    const char *summary;
    const char *operands; /* NULL: none */
    const struct option_spec *options;
    size_t options_count;
    int operands_min, operands_max;
};
int cli_parse(const struct cli_usage *usage, int argc, char **argv, int *ret_operand, struct error *err);

/* ---- the commands, by file ---- */

int volume_create(struct cli *cli, int argc, char **argv, struct error *err);
int volume_list(struct cli *cli, int argc, char **argv, struct error *err);
int volume_show(struct cli *cli, int argc, char **argv, struct error *err);
int volume_delete(struct cli *cli, int argc, char **argv, struct error *err);
int volume_expand(struct cli *cli, int argc, char **argv, struct error *err);
int volume_modify(struct cli *cli, int argc, char **argv, struct error *err);
int snapshot_create(struct cli *cli, int argc, char **argv, struct error *err);
int snapshot_list(struct cli *cli, int argc, char **argv, struct error *err);
int snapshot_show(struct cli *cli, int argc, char **argv, struct error *err);
int snapshot_delete(struct cli *cli, int argc, char **argv, struct error *err);
int volume_attach(struct cli *cli, int argc, char **argv, struct error *err);
int volume_detach(struct cli *cli, int argc, char **argv, struct error *err);
int volume_clear_failed(struct cli *cli, int argc, char **argv, struct error *err);
int volume_secret(struct cli *cli, int argc, char **argv, struct error *err);
int mount_mount(struct cli *cli, int argc, char **argv, struct error *err);
int mount_unmount(struct cli *cli, int argc, char **argv, struct error *err);
int pool_create(struct cli *cli, int argc, char **argv, struct error *err);
int pool_list(struct cli *cli, int argc, char **argv, struct error *err);
int pool_import(struct cli *cli, int argc, char **argv, struct error *err);
int pool_scrub(struct cli *cli, int argc, char **argv, struct error *err);
int node_list(struct cli *cli, int argc, char **argv, struct error *err);
int node_fence(struct cli *cli, int argc, char **argv, struct error *err);
int node_unfence(struct cli *cli, int argc, char **argv, struct error *err);
int node_devices(struct cli *cli, int argc, char **argv, struct error *err);
int node_upgrade(struct cli *cli, int argc, char **argv, struct error *err);
int node_check(struct cli *cli, int argc, char **argv, struct error *err);
int session_list(struct cli *cli, int argc, char **argv, struct error *err);
int tls_init(struct cli *cli, int argc, char **argv, struct error *err);
int tls_issue_command(struct cli *cli, int argc, char **argv, struct error *err);
