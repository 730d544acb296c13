/* mooring pool …: making and looking at pools is the program mooring-pool's, which is run; listing asks the
 * storage servers. Run by main(). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/output.h"
#include "cli/servers.h"
#include "common/cleanup.h"
#include "common/options.h"
#include "common/record.h"
#include "common/size.h"
#include "common/strings.h"

#define PROGRAM "mooring-pool"

/* ---- running mooring-pool ---- */

/* Installed, it is in ../libexec/mooring; in a build directory, beside us. */
static char *find_program(void)
{
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *path, *slash;

    if (length < 0)
        return NULL;
    self[length] = '\0';
    slash = strrchr(self, '/');
    *slash = '\0';
    path = str_format("%s/../libexec/mooring/" PROGRAM, self);
    if (path && access(path, X_OK) == 0)
        return path;
    free(path);
    return str_format("%s/" PROGRAM, self);
}

static int spawn(const char *program, char **argv, int output_fd, pid_t *ret_pid, struct error *err)
{
    posix_spawn_file_actions_t actions;
    int r;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, output_fd, STDOUT_FILENO);
    r = posix_spawn(ret_pid, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (r == ENOENT)
        return error_set(err, E_PRECONDITION, "%s is not installed: pools are made on a storage host",
                         program);
    return r == 0 ? E_OK : error_errno(err, r, "cannot run %s", program);
}

/* Its words are on stderr already. */
static int wait_program(pid_t pid, struct error *err)
{
    int status;

    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return error_errno(err, errno, "cannot wait for " PROGRAM);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return E_OK;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        return error_set(err, E_INVALID_ARGUMENT, PROGRAM " refused the command line");
    return error_set(err, -ECHILD, PROGRAM " failed");
}

/* Run it and read the one JSON object that it prints. */
static int run_program(char **argv, json_t **ret, struct error *err)
{
    _cleanup_free_ char *program = find_program();
    _cleanup_fd_ int read_fd = -1, write_fd = -1;
    _cleanup_json_ json_t *object = NULL;
    json_error_t problem;
    int fds[2];
    pid_t pid;
    int r;

    if (!program || pipe2(fds, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot run " PROGRAM);
    read_fd = fds[0];
    write_fd = fds[1];
    argv[0] = program;
    r = spawn(program, argv, write_fd, &pid, err);
    if (r != E_OK)
        return r;
    write_fd = fd_close(write_fd);
    object = json_loadfd(read_fd, JSON_DISABLE_EOF_CHECK, &problem);
    r = wait_program(pid, err);
    if (r == E_OK && !json_is_object(object))
        r = error_set(err, -EPROTO, PROGRAM " printed no JSON object: %s", problem.text);
    if (r == E_OK)
        *ret = TAKE_PTR(object);
    return r;
}

static const struct output_column pool_columns[] = {
    {"server_id", "server", OUTPUT_TEXT}, {"uuid", "pool UUID", OUTPUT_TEXT},
    {"path", "path", OUTPUT_TEXT},        {"image", "image", OUTPUT_TEXT},
    {"device", "device", OUTPUT_TEXT},    {"volumes_count", "volumes", OUTPUT_TEXT},
    {"used_bytes", "used", OUTPUT_SIZE},  {"total_bytes", "size", OUTPUT_SIZE},
    {"host", "host", OUTPUT_TEXT},        {"this_host", "is this one", OUTPUT_BOOL},
    {"closed", "closed it", OUTPUT_BOOL},
};

/* For people: the lines that make use of the pool. stderr, so that stdout is the answer alone. */
static void print_next_step(const struct cli *cli, json_t *pool)
{
    const char *server_id = json_string_value(json_object_get(pool, "server_id"));
    const char *uuid = json_string_value(json_object_get(pool, "uuid"));
    const char *path = json_string_value(json_object_get(pool, "path"));

    if (cli->output == CLI_JSON || !server_id || !uuid || !path)
        return;
    if (json_is_false(json_object_get(pool, "closed")) && json_is_false(json_object_get(pool, "this_host")))
        fprintf(
            stderr,
            "Another host served it last and has not closed it. Where that host is gone for good, or has not "
            "the disk any more: mooring pool import --path=%s --take\n",
            path);
    fprintf(stderr,
            "Serve it: in mooring-target's configuration set \"server_id\": \"%s\", \"pool\": \"%s\", "
            "\"pool_uuid\": "
            "\"%s\".\nUse it: add to \"servers\" of the controller, the nodes and this command:\n"
            "  { \"id\": \"%s\", \"address\": \"HOST:PORT\", \"pool_uuid\": \"%s\" }\n",
            server_id, path, uuid, server_id, uuid);
}

static int run_and_print(struct cli *cli, char **argv, struct error *err)
{
    _cleanup_json_ json_t *pool = NULL;
    int r = run_program(argv, &pool, err);

    if (r == E_OK)
        r = output_object(cli, stdout, pool, pool_columns, ARRAY_SIZE(pool_columns), err);
    if (r == E_OK)
        print_next_step(cli, pool);
    return r;
}

int pool_create(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *path = NULL, *server_id = NULL, *image = NULL, *size = NULL, *device = NULL;
    const struct option_spec options[] = {
        {.name = "path", .argument = "DIR", .help = "the pool's directory", .value = &path, .required = true},
        {.name = "server-id",
         .argument = "ID",
         .help = "its storage server",
         .value = &server_id,
         .required = true},
        {.name = "image",
         .argument = "FILE",
         .help = "make XFS in a new file, mounted at DIR",
         .value = &image},
        {.name = "size", .argument = "SIZE", .help = "of the image: 10GiB", .value = &size},
        {.name = "device",
         .argument = "DEV",
         .help = "make XFS on an empty device, mounted at DIR",
         .value = &device},
    };
    const struct cli_usage usage = {"mooring pool create",
                                    "Make a pool on this host, in a directory on XFS with reflink.",
                                    NULL,
                                    options,
                                    ARRAY_SIZE(options),
                                    0,
                                    0};
    char *words[16] = {NULL, (char *)"create"};
    size_t count = 2;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    for (size_t i = 0; r == E_OK && i < ARRAY_SIZE(options); i++) {
        if (!*options[i].value)
            continue;
        words[count] = str_format("--%s=%s", options[i].name, *options[i].value);
        if (!words[count++])
            r = error_errno(err, ENOMEM, "the command line");
    }
    if (r == E_OK)
        r = run_and_print(cli, words, err);
    while (count-- > 2)
        free(words[count]);
    return r;
}

int pool_import(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *path = NULL;
    bool take = false;
    const struct option_spec options[] = {
        {.name = "path", .argument = "DIR", .help = "the pool's directory", .value = &path, .required = true},
        {.name = "take",
         .help = "from a host that served it last, did not close it, and has not its disk any more",
         .flag = &take},
    };
    const struct cli_usage usage = {
        "mooring pool import",
        "Say what pool a directory holds, who served it last, and how to serve it on this host. Without\n"
        "--take it changes nothing.",
        NULL,
        options,
        ARRAY_SIZE(options),
        0,
        0};
    _cleanup_free_ char *path_word = NULL;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r != E_OK)
        return r;
    path_word = str_format("--path=%s", path);
    if (!path_word)
        return error_errno(err, ENOMEM, "the command line");
    return run_and_print(
        cli, (char *[]){NULL, (char *)"show", path_word, take ? (char *)"--take" : NULL, NULL}, err);
}

/* ---- list ---- */

/* What the server finds wrong with itself: for people on stderr, as it is too long for a table. */
static json_t *server_health_to_json(const Mooring__Storage__V1__GetServerResponse *server)
{
    json_t *array = json_array();

    for (size_t i = 0; i < server->n_health; i++)
        json_array_append_new(array, json_string(server->health[i]->message));
    return array;
}

static void print_health(const struct cli *cli, json_t *row)
{
    json_t *message;
    size_t i;

    if (cli->output == CLI_JSON)
        return;
    json_array_foreach(json_object_get(row, "health"), i, message)
    {
        fprintf(stderr, "mooring: storage server %s: %s\n",
                json_string_value(json_object_get(row, "server_id")), json_string_value(message));
    }
}

static json_t *server_to_json(const struct server_answer *answer)
{
    const Mooring__Storage__V1__GetServerResponse *server =
        (const Mooring__Storage__V1__GetServerResponse *)answer->message;
    json_t *portals;

    if (!server)
        return json_pack("{s:s, s:s, s:s, s:s, s:s}", "server_id", answer->config->id, "address",
                         answer->config->address, "pool_uuid", answer->config->pool_uuid, "state",
                         "unavailable", "error", error_text(&answer->err));
    portals = json_array();
    for (size_t i = 0; i < server->n_portals; i++)
        json_array_append_new(portals, json_string(server->portals[i]));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:o}", "server_id",
                     server->server_id, "address", answer->config->address, "pool_uuid", server->pool_uuid,
                     "state", "ready", "version", server->version, "capacity_bytes",
                     (json_int_t)server->capacity_bytes, "free_bytes", (json_int_t)server->free_bytes,
                     "promise_max_bytes", (json_int_t)MAX(server->free_bytes, server->promise_max_bytes),
                     "used_bytes", (json_int_t)server->used_bytes, "volumes_count",
                     (json_int_t)server->volumes_count, "portals", portals, "boot_id", server->boot_id,
                     "health", server_health_to_json(server));
}

int pool_list(struct cli *cli, int argc, char **argv, struct error *err)
{
    static const struct output_column columns[] = {
        {"server_id", "SERVER", OUTPUT_TEXT},      {"address", "ADDRESS", OUTPUT_TEXT},
        {"state", "STATE", OUTPUT_TEXT},           {"capacity_bytes", "SIZE", OUTPUT_SIZE},
        {"used_bytes", "USED", OUTPUT_SIZE},       {"free_bytes", "FREE", OUTPUT_SIZE},
        {"volumes_count", "VOLUMES", OUTPUT_TEXT}, {"portals", "PORTALS", OUTPUT_TEXT},
        {"pool_uuid", "POOL", OUTPUT_TEXT},
    };
    const struct cli_usage usage = {
        "mooring pool list", "List the storage servers and their pools.", NULL, NULL, 0, 0, 0};
    Mooring__Storage__V1__GetServerRequest request = MOORING__STORAGE__V1__GET_SERVER_REQUEST__INIT;
    _cleanup_json_ json_t *rows = json_array();
    struct server_answers answers;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = servers_ask(cli, "GetServer", &request.base, &answers, err);
    if (r != E_OK)
        return r;
    for (size_t i = 0; i < answers.count; i++)
        json_array_append_new(rows, server_to_json(&answers.items[i]));
    for (size_t i = 0; i < json_array_size(rows); i++)
        print_health(cli, json_array_get(rows, i));
    r = output_rows(cli, stdout, rows, columns, ARRAY_SIZE(columns), err);
    if (r == E_OK)
        r = servers_outcome(&answers, "no answer", err);
    servers_done(&answers);
    return r;
}
