/* Who keeps a block device from ending, in words: for whoever waits for it. Any thread. */
#pragma once

/*
 * "fio (pid 123), a mount of nginx (pid 77)": processes that have `device` open, and those of other mount
 * namespaces that have it mounted. A few at most; "" when none is found. Asks no file's own file system, so
 * it does not wait for one that hangs. The caller frees; NULL when memory ran out.
 */
char *device_users(const char *device);
