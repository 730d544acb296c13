/*
 * A plugin of QEMU's TCG: counts what the guest executes, for tests/bench/guest. counters=FILE names a file
 * of a page or more, which has two numbers of 64 bits: instructions below and above the middle of the address
 * space, which on x86 are those of programs and those of the kernel. Exact for a guest of one processor; no
 * time is measured.
 *
 * QEMU's headers are in no package of Debian's: what is used of its plugins' interface, version 1, is
 * declared here.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#define COUNTERS "counters="
#define PAGE 4096u
#define INLINE_ADD_U64 0

struct qemu_plugin_tb; /* a run of instructions without a branch in it */
struct qemu_info_t;

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id,
                                           void (*translated)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, int op, void *to, uint64_t add);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

int qemu_plugin_version = 1;
int qemu_plugin_install(uint64_t id, const struct qemu_info_t *info, int argc, char **argv);

static uint64_t *counters; /* programs, kernel */

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    uint64_t *counter = &counters[qemu_plugin_tb_vaddr(tb) >> 63];
    qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64, counter, qemu_plugin_tb_n_insns(tb));
}

int qemu_plugin_install(uint64_t id, const struct qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    if (argc != 1 || strncmp(argv[0], COUNTERS, strlen(COUNTERS)) != 0) {
        fprintf(stderr, "count-instructions: " COUNTERS "FILE is needed\n");
        return -1;
    }
    int fd = open(argv[0] + strlen(COUNTERS), O_RDWR | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (map == MAP_FAILED) {
        perror(argv[0]);
        return -1;
    }
    counters = map;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
