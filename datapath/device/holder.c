/*
 * mooring-holder: keeps a volume's /dev/fuse descriptors and replay log alive while mooring-device is
 * replaced. Owns the socket and the descriptors by name. One thread, poll(2), nothing but libc, no
 * allocation: what is small enough to be read whole does not need a holder of its own. mooring-node starts
 * it, before the device. SIGTERM and SIGINT mean it only when it holds nothing that lives.
 */
#include "datapath/device/holder.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct slot {
    char name[HOLDER_NAME_MAX + 1];
    int fd;
};

struct holder {
    struct slot slots[HOLDER_SLOTS];
    int dir_fd; /* of the socket */
    char socket_name[108];
    int listener;
    int client;       /* the connection of the device that is admitted, or -1 */
    int client_pidfd; /* its process: readable once it has ended; -1 when there is none */
    pid_t client_pid;
    int signals; /* SIGTERM and SIGINT; -1 once one has come */
    bool ending;
};

static int complain(const char *what)
{
    fprintf(stderr, "error mooring-holder %s: %s\n", what, strerror(errno));
    return -1;
}

static struct slot *slot_find(struct holder *holder, const char *name)
{
    for (int i = 0; i < HOLDER_SLOTS; i++)
        if (holder->slots[i].fd >= 0 && strcmp(holder->slots[i].name, name) == 0)
            return &holder->slots[i];
    return NULL;
}

/* Asked only after a signal: to wait on the descriptor would wake us with every request. */
static bool mount_lives(const struct holder *holder)
{
    for (int i = 0; i < HOLDER_SLOTS; i++) {
        struct pollfd descriptor = {.fd = holder->slots[i].fd};
        if (descriptor.fd >= 0 && strncmp(holder->slots[i].name, "fuse", 4) == 0 &&
            poll(&descriptor, 1, 0) == 0)
            return true;
    }
    return false;
}

static bool name_valid(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length <= HOLDER_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

static void answer(int connection, const char *text, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.space = {0}};
    struct iovec iov = {(void *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof control.space;
        struct cmsghdr *part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(part), &fd, sizeof fd);
    }
    if (sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EPIPE)
        complain("cannot answer the device");
}

static void put(struct holder *holder, const char *name, int fd)
{
    if (fd < 0 || !name_valid(name)) {
        answer(holder->client, "ERROR PUT takes a name and one descriptor", -1);
        return;
    }
    struct slot *slot = slot_find(holder, name);
    for (int i = 0; !slot && i < HOLDER_SLOTS; i++)
        if (holder->slots[i].fd < 0)
            slot = &holder->slots[i];
    int copy = slot ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (copy < 0) {
        answer(holder->client, slot ? "ERROR too many open files" : "ERROR all slots are taken", -1);
        return;
    }
    if (slot->fd >= 0)
        close(slot->fd);
    slot->fd = copy;
    snprintf(slot->name, sizeof slot->name, "%s", name);
    answer(holder->client, "OK", -1);
}

static void get(struct holder *holder, const char *name)
{
    struct slot *slot = slot_find(holder, name);
    answer(holder->client, slot ? "OK" : "NONE", slot ? slot->fd : -1);
}

static void command(struct holder *holder, const char *text, int fd)
{
    if (strncmp(text, "PUT ", 4) == 0) {
        put(holder, text + 4, fd);
    } else if (strncmp(text, "GET ", 4) == 0) {
        get(holder, text + 4);
    } else if (strcmp(text, "END") == 0) {
        holder->ending = true;
        answer(holder->client, "OK", -1);
    } else {
        answer(holder->client, "ERROR unknown command", -1);
    }
}

/* One packet from the device. Its descriptor, if any, is ours until the command took a copy. */
static void client_readable(struct holder *holder)
{
    char text[HOLDER_MESSAGE_MAX + 1];
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {text, HOLDER_MESSAGE_MAX};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.space,
                             .msg_controllen = sizeof control.space};
    ssize_t length = recvmsg(holder->client, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (length <= 0) {
        close(holder->client);
        holder->client = -1;
        return;
    }
    int fd = -1;
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    if (part && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(part), sizeof fd);
    text[length] = 0;
    command(holder, text, fd);
    if (fd >= 0)
        close(fd);
}

/* Admit a device, or refuse it while its predecessor's connection or process is still there. */
static void listener_readable(struct holder *holder)
{
    int connection = accept4(holder->listener, NULL, NULL, SOCK_CLOEXEC);
    if (connection < 0)
        return;
    if (holder->client >= 0 || holder->client_pidfd >= 0) {
        char text[HOLDER_MESSAGE_MAX];
        snprintf(text, sizeof text, "BUSY %d", (int)holder->client_pid);
        answer(connection, text, -1);
        close(connection);
        return;
    }
    struct ucred peer = {0};
    socklen_t length = sizeof peer;
    int pidfd = -1;
    if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.pid > 0)
        pidfd = pidfd_open(peer.pid, 0);
    if (pidfd < 0) {
        answer(connection, "ERROR the device's process is not visible from the holder's pid namespace", -1);
        close(connection);
        return;
    }
    holder->client = connection;
    holder->client_pidfd = pidfd;
    holder->client_pid = peer.pid;
    answer(connection, "HELLO", -1);
}

static void serve_once(struct holder *holder)
{
    struct pollfd polls[] = {{.fd = holder->listener, .events = POLLIN},
                             {.fd = holder->client, .events = POLLIN},
                             {.fd = holder->client_pidfd, .events = POLLIN},
                             {.fd = holder->signals, .events = POLLIN}};
    if (poll(polls, 4, holder->signals < 0 ? 200 : -1) < 0)
        return;
    if (polls[1].revents)
        client_readable(holder);
    if (polls[2].revents) {
        close(holder->client_pidfd);
        holder->client_pidfd = -1;
    }
    if (polls[0].revents)
        listener_readable(holder);
    if (polls[3].revents)
        holder->signals = -1;
    if (holder->signals < 0 && holder->client < 0 && holder->client_pidfd < 0 && !mount_lives(holder))
        holder->ending = true;
}

/* The directory, so that the address fits sun_path however long the path is; and the name in it. */
static int split_path(struct holder *holder, char *path)
{
    char *slash = strrchr(path, '/');
    const char *directory = ".", *name = path;
    if (slash) {
        *slash = '\0';
        directory = slash == path ? "/" : path;
        name = slash + 1;
    }
    if (strlen(name) == 0 || strlen(name) >= sizeof holder->socket_name) {
        errno = ENAMETOOLONG;
        return complain("--socket");
    }
    snprintf(holder->socket_name, sizeof holder->socket_name, "%s", name);
    holder->dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (holder->dir_fd < 0 || fchdir(holder->dir_fd) < 0)
        return complain(directory);
    return 0;
}

static int listen_on(struct holder *holder, char *path)
{
    if (split_path(holder, path) < 0)
        return -1;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, holder->socket_name, sizeof holder->socket_name);
    int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    holder->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (probe < 0 || holder->listener < 0)
        return complain("socket");
    if (connect(probe, (struct sockaddr *)&address, sizeof address) == 0) {
        errno = EADDRINUSE;
        return complain("another mooring-holder serves this socket");
    }
    close(probe);
    unlink(holder->socket_name);
    umask(0177);
    if (bind(holder->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(holder->listener, 8) < 0)
        return complain(holder->socket_name);
    return chdir("/");
}

/* The out-of-memory killer must take the one that leaks, not the one that others hang on. Best effort. */
static int harden(struct holder *holder)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "-1000", 5) < 0)
        complain("cannot set oom_score_adj");
    close(fd);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    holder->signals = signalfd(-1, &set, SFD_CLOEXEC);
    return holder->signals < 0 ? complain("signalfd") : 0;
}

int main(int argc, char **argv)
{
    if (argc != 3 || strcmp(argv[1], "--socket") != 0) {
        int asked = argc == 2 && strcmp(argv[1], "--help") == 0;
        fprintf(asked ? stdout : stderr,
                "Usage: mooring-holder --socket PATH\n"
                "Keeps a volume's descriptors while its mooring-device is replaced.\n");
        return asked ? 0 : 2;
    }
    struct holder holder = {.dir_fd = -1, .listener = -1, .client = -1, .client_pidfd = -1};
    for (int i = 0; i < HOLDER_SLOTS; i++)
        holder.slots[i].fd = -1;
    if (harden(&holder) < 0 || listen_on(&holder, argv[2]) < 0)
        return 1;
    while (!holder.ending)
        serve_once(&holder);
    unlinkat(holder.dir_fd, holder.socket_name, 0);
    return 0;
}
