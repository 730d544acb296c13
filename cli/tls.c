/* mooring tls …: a private CA in a directory, and certificates for roles. Run by main(). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/output.h"
#include "common/cleanup.h"
#include "common/id.h"
#include "common/options.h"
#include "common/record.h"
#include "common/strings.h"
#include "rpc/tls_issue.h"

#define DIR_DEFAULT "/etc/mooring/tls"
#define DAYS_DEFAULT 825
#define DAYS_MAX 3650
#define NAMES_MAX 16

int tls_init(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *dir = DIR_DEFAULT;
    const struct option_spec options[] = {
        {.name = "dir", .argument = "DIR", .help = "where the CA lives (" DIR_DEFAULT ")", .value = &dir},
    };
    const struct cli_usage usage = {
        "mooring tls init",
        "Make a private certificate authority: ca.crt goes to every host, ca.key stays here and secret.",
        NULL,
        options,
        ARRAY_SIZE(options),
        0,
        0};
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    (void)cli;
    return r == E_OK ? tls_ca_create(dir, err) : r;
}

/* "mooring:<role>[:<id>]", as rpc/rpc.h reads it. */
static int common_name(const char *role, const char *id, char **ret, struct error *err)
{
    bool server = str_equal(role, "server"), node = str_equal(role, "node");

    if (!server && !node && !str_equal(role, "controller") && !str_equal(role, "operator"))
        return error_set(err, E_INVALID_ARGUMENT, "role \"%s\" is none of controller, operator, node, server",
                         role);
    if ((server || node) && !id)
        return error_set(err, E_INVALID_ARGUMENT, "role %s needs an id: mooring tls issue %s ID", role, role);
    if (!server && !node && id)
        return error_set(err, E_INVALID_ARGUMENT, "role %s takes no id", role);
    if (server && !id_server_valid(id))
        return error_set(err, E_INVALID_ARGUMENT, "\"%s\" is not a server id: a-z, 0-9 and -", id);
    if (node && !id_node_valid(id))
        return error_set(err, E_INVALID_ARGUMENT, "\"%s\" is not a node id: a-z, 0-9, . and -", id);
    *ret = id ? str_format("mooring:%s:%s", role, id) : str_format("mooring:%s", role);
    return *ret ? E_OK : error_errno(err, ENOMEM, "the name");
}

static int print_issued(struct cli *cli, const char *name, const char *prefix, struct error *err)
{
    static const struct output_column columns[] = {{"name", "for", OUTPUT_TEXT},
                                                   {"cert", "certificate", OUTPUT_TEXT},
                                                   {"key", "key (secret)", OUTPUT_TEXT}};
    _cleanup_free_ char *cert = str_format("%s.crt", prefix);
    _cleanup_free_ char *key = str_format("%s.key", prefix);
    _cleanup_json_ json_t *object =
        json_pack("{s:s, s:s, s:s}", "name", name, "cert", cert ? cert : "", "key", key ? key : "");

    return output_object(cli, stdout, object, columns, ARRAY_SIZE(columns), err);
}

struct issue {
    const char *dir;
    const char *out;
    const char *days;
    const char *names[NAMES_MAX];
    size_t names_count;
};

static int issue(struct cli *cli, const struct issue *request, const char *role, const char *id,
                 struct error *err)
{
    _cleanup_free_ char *name = NULL;
    _cleanup_free_ char *prefix = NULL;
    long days = request->days ? strtol(request->days, NULL, 10) : DAYS_DEFAULT;
    int r = common_name(role, id, &name, err);

    if (r != E_OK)
        return r;
    if (days < 1 || days > DAYS_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "--days takes 1 to %d days, not \"%s\"", DAYS_MAX,
                         request->days);
    prefix = request->out ? strdup(request->out)
                          : str_format("%s/%s%s%s", request->dir, role, id ? "-" : "", id ? id : "");
    if (!prefix)
        return error_errno(err, ENOMEM, "the file name");
    r = tls_issue(request->dir, name, request->names, request->names_count, prefix, (unsigned)days, err);
    return r == E_OK ? print_issued(cli, name, prefix, err) : r;
}

int tls_issue_command(struct cli *cli, int argc, char **argv, struct error *err)
{
    struct issue request = {.dir = DIR_DEFAULT};
    const struct option_spec options[] = {
        {.name = "dir", .argument = "DIR", .help = "of the CA (" DIR_DEFAULT ")", .value = &request.dir},
        {.name = "out",
         .argument = "PREFIX",
         .help = "writes PREFIX.crt and PREFIX.key; else DIR/ROLE[-ID]",
         .value = &request.out},
        {.name = "days", .argument = "N", .help = "how long it is valid (825)", .value = &request.days},
    };
    const struct cli_usage usage = {
        "mooring tls issue",
        "Issue a certificate for a role: controller, operator, node ID or server ID. A server's carries its "
        "id as\n"
        "DNS name, by which clients know it, and the further names or addresses given.",
        "ROLE [ID [NAME…]]",
        options,
        ARRAY_SIZE(options),
        1,
        NAMES_MAX};
    const char *id = NULL;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r != E_OK)
        return r;
    if (argc - operand > 1)
        id = argv[operand + 1];
    if (id && str_equal(argv[operand], "server"))
        request.names[request.names_count++] = id;
    for (int i = operand + 2; i < argc && request.names_count < NAMES_MAX; i++)
        request.names[request.names_count++] = argv[i];
    return issue(cli, &request, argv[operand], id, err);
}
