/* attach=auto, by the word of mooring-device, which knows the kernels. Called by stage.c and config.c. */
#include "node/choose.h"

#include <errno.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/record.h"
#include "common/strings.h"
#include "node/process.h"

bool choose_is_way(const char *name)
{
    static const char *const ways[] = {"auto", "ublk", "fuse", "iscsi"};

    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        if (str_equal(name, ways[i]))
            return true;
    }
    return false;
}

/* What it prints on stderr, too, is in the output: the object is what stands between the outermost braces. */
static json_t *choose_parse(char *output)
{
    char *begin = output ? strchr(output, '{') : NULL;
    char *end = begin ? strrchr(begin, '}') : NULL;

    if (!end)
        return NULL;
    end[1] = '\0';
    return json_loads(begin, 0, NULL);
}

int choose_check(const struct node_config *config, json_t **ret, struct error *err)
{
    _cleanup_free_ char *program = str_format("%s/mooring-device", config->libexec_dir);
    const char *argv[] = {program, "--check", NULL};
    _cleanup_free_ char *output = NULL;
    int status = 0;

    if (!program)
        return error_errno(err, ENOMEM, "cannot tell how to attach");
    int r = process_run(argv, NULL, &status, &output, err);
    if (r)
        return r;
    json_t *object = status ? NULL : choose_parse(output);
    if (!object)
        return error_set(err, E_UNIMPLEMENTED, "%s --check gave no answer (exit status %d)", program, status);
    *ret = object;
    return 0;
}

static const char *choose_why(json_t *check, const char *way)
{
    const char *why = json_string_value(json_object_get(json_object_get(check, way), "why"));

    return why && *why ? why : "no reason is given";
}

static int choose_from(json_t *check, const char *way, char ret_way[STAGE_ATTACH_SIZE], struct error *err)
{
    if (str_equal(way, "auto")) {
        const char *found = json_string_value(json_object_get(check, "auto"));
        if (found && *found && str_copy(ret_way, STAGE_ATTACH_SIZE, found))
            return 0;
        return error_set(
            err, E_PRECONDITION,
            "no way to attach works on this host: not ublk (%s), and not fuse (%s); see mooring node "
            "check",
            choose_why(check, "ublk"), choose_why(check, "fuse"));
    }
    if (json_is_false(json_object_get(json_object_get(check, way), "usable")))
        return error_set(err, E_PRECONDITION, "attach \"%s\" does not work on this host: %s", way,
                         choose_why(check, way));
    str_copy(ret_way, STAGE_ATTACH_SIZE, way);
    return 0;
}

int choose_way(const struct node_config *config, const char *wanted, char ret_way[STAGE_ATTACH_SIZE],
               struct error *err)
{
    const char *way = *wanted && !str_equal(wanted, "auto") ? wanted : config->attach;
    _cleanup_error_ struct error why = {0};
    _cleanup_json_ json_t *check = NULL;

    if (str_equal(way, "iscsi")) { /* the kernel's own: mooring-device has no part in it */
        str_copy(ret_way, STAGE_ATTACH_SIZE, way);
        return 0;
    }
    int r = choose_check(config, &check, &why);
    if (!r)
        return choose_from(check, way, ret_way, err);
    /* A mooring-device of before --check is one of FUSE alone. */
    if (r != E_UNIMPLEMENTED || str_equal(way, "ublk")) {
        error_move(err, &why);
        return r == E_UNIMPLEMENTED ? E_PRECONDITION : r;
    }
    log_warning("attaching by fuse: %s", error_text(&why));
    str_copy(ret_way, STAGE_ATTACH_SIZE, "fuse");
    return 0;
}
