/*
 * The device's side of the holder's socket: connect, put, get, end. Owns nothing; called by device.c at the
 * start and from an offload thread.
 */
#include "datapath/device/holder_client.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/device/holder.h"

#define RETRY_MS 20
#define HOLDER_START_MS 2000u
#define ANSWER_TIMEOUT_S 10

static int packet_send(int connection, const char *text, int fd)
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
    return sendmsg(connection, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int packet_receive(int connection, char text[HOLDER_MESSAGE_MAX + 1], int *ret_fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {text, HOLDER_MESSAGE_MAX};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.space,
                             .msg_controllen = sizeof control.space};
    ssize_t length;
    do /* what a thread's io_uring has still to do interrupts a wait that has a limit, without any signal */
        length = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length <= 0)
        return length < 0 ? -errno : -ECONNRESET;
    text[length] = '\0';
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    if (part && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS)
        memcpy(ret_fd, CMSG_DATA(part), sizeof *ret_fd);
    return 0;
}

static int call(int connection, const char *command, const char *name, int fd,
                char answer[HOLDER_MESSAGE_MAX + 1], int *ret_fd, struct error *err)
{
    char text[HOLDER_MESSAGE_MAX];
    snprintf(text, sizeof text, "%s%s%s", command, name ? " " : "", name ? name : "");
    int got = -1;
    int r = packet_send(connection, text, fd);
    if (r == 0)
        r = packet_receive(connection, answer, &got);
    if (r < 0)
        return error_errno(err, -r, "mooring-holder does not answer %s", text);
    if (got >= 0 && ret_fd)
        *ret_fd = got;
    else
        fd_close(got);
    if (str_starts_with(answer, "ERROR"))
        return error_set(err, -EPROTO, "mooring-holder refuses %s: %s", text, answer);
    return 0;
}

/* One attempt: 0 with a connection, E_BUSY, or -errno. */
static int try_connect(int dir_fd, int *ret_connection, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/holder.sock", dir_fd);
    _cleanup_fd_ int connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connection < 0)
        return error_errno(err, errno, "socket");
    struct timeval limit = {.tv_sec = ANSWER_TIMEOUT_S};
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(connection, (struct sockaddr *)&address, sizeof address) < 0)
        return error_errno(err, errno, "no mooring-holder at holder.sock in the state directory");
    char text[HOLDER_MESSAGE_MAX + 1];
    int fd = -1;
    int r = packet_receive(connection, text, &fd);
    fd_close(fd);
    if (r < 0)
        return error_errno(err, -r, "mooring-holder does not greet");
    if (str_starts_with(text, "BUSY"))
        return error_set(err, E_BUSY, "another mooring-device (pid %s) holds this volume and has not ended",
                         text + strlen("BUSY "));
    if (!str_equal(text, "HELLO"))
        return error_set(err, -EPROTO, "mooring-holder refuses: %s", text);
    *ret_connection = TAKE_FD(connection);
    return 0;
}

int holder_client_connect(int dir_fd, unsigned timeout_ms, int *ret_connection, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    uint64_t starting_ms = MIN(deadline_ms, time_now_ms() + HOLDER_START_MS);
    for (;;) {
        _cleanup_error_ struct error attempt = {0};
        int r = try_connect(dir_fd, ret_connection, &attempt);
        bool starting = r == -ENOENT || r == -ECONNREFUSED; /* the holder may just be starting */
        bool retry = r == E_BUSY ? time_now_ms() < deadline_ms : starting && time_now_ms() < starting_ms;
        if (!retry) {
            if (r)
                error_move(err, &attempt);
            return r;
        }
        nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
    }
}

int holder_client_put(int connection, const char *name, int fd, struct error *err)
{
    char answer[HOLDER_MESSAGE_MAX + 1];
    return call(connection, "PUT", name, fd, answer, NULL, err);
}

int holder_client_get(int connection, const char *name, int *ret_fd, struct error *err)
{
    char answer[HOLDER_MESSAGE_MAX + 1];
    int fd = -1;
    int r = call(connection, "GET", name, -1, answer, &fd, err);
    if (r)
        return r;
    if (fd < 0)
        return error_set(err, E_NOT_FOUND, "mooring-holder has no descriptor named %s", name);
    *ret_fd = fd;
    return 0;
}

int holder_client_end(int connection, struct error *err)
{
    char answer[HOLDER_MESSAGE_MAX + 1];
    return call(connection, "END", NULL, -1, answer, NULL, err);
}
