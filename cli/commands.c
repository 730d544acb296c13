/* The table of commands. Constant. */
#include "cli/cli.h"

#include "common/cleanup.h"
#include "common/strings.h"

const struct cli_command cli_commands[] = {
    {"volume", "create", "make a volume", volume_create},
    {"volume", "list", "list volumes and where they are attached", volume_list},
    {"volume", "show", "show one volume", volume_show},
    {"volume", "delete", "delete a volume and its data", volume_delete},
    {"volume", "expand", "grow a volume, in use or not", volume_expand},
    {"volume", "modify", "change a volume's limits while it is in use", volume_modify},
    {"volume", "attach", "attach a volume to a node", volume_attach},
    {"volume", "detach", "detach a volume from a node; waits until it no longer writes", volume_detach},
    {"volume", "mount", "attach to this node, format if blank, and mount", mount_mount},
    {"volume", "unmount", "undo mount on this node", mount_unmount},
    {"volume", "clear-failed", "let a write-failed volume be written again", volume_clear_failed},
    {"volume", "secret", "print the CHAP secret for a virtual machine's initiator", volume_secret},
    {"snapshot", "create", "keep the bytes that a volume has now", snapshot_create},
    {"snapshot", "list", "list snapshots", snapshot_list},
    {"snapshot", "show", "show one snapshot", snapshot_show},
    {"snapshot", "delete", "delete a snapshot", snapshot_delete},
    {"pool", "create", "make a pool on this host", pool_create},
    {"pool", "list", "list the storage servers and their pools", pool_list},
    {"pool", "import", "say what pool a directory holds and how to serve it", pool_import},
    {"pool", "scrub", "say what was read of all that is allocated, and what could not be", pool_scrub},
    {"node", "list", "list the compute nodes", node_list},
    {"node", "fence", "keep a lost node from all storage servers", node_fence},
    {"node", "unfence", "let a fenced node attach again", node_unfence},
    {"node", "devices", "list the volumes staged on this host and how their devices do", node_devices},
    {"node", "upgrade", "replace this host's device processes by the installed program", node_upgrade},
    {"node", "check", "check whether this host can be a compute node", node_check},
    {"session", "list", "list the iSCSI sessions of the storage servers", session_list},
    {"tls", "init", "make a private certificate authority", tls_init},
    {"tls", "issue", "issue a certificate for a role", tls_issue_command},
};

const size_t cli_commands_count = ARRAY_SIZE(cli_commands);

const struct cli_command *cli_find(const char *group, const char *name)
{
    for (size_t i = 0; i < cli_commands_count; i++) {
        if (str_equal(cli_commands[i].group, group) && str_equal(cli_commands[i].name, name))
            return &cli_commands[i];
    }
    return NULL;
}
