/*
 * Runs a fuzz target without libFuzzer: each file of the corpus, then mutations of them. Owns the inputs; one
 * thread. Linked with a file that defines LLVMFuzzerTestOneInput.
 *
 *   <binary> [--runs N] [--seed S] [--first I] <corpus-dir>
 *
 * Mutation I depends on seed, I and the corpus only: what a failure prints runs that one again.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/options.h"
#include "common/strings.h"
#include "common/time.h"

#define INPUT_MAX 16384
#define CORPUS_MAX 256
#define STEPS_MAX 6

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

struct input {
    char *name;
    char *bytes;
    size_t size;
};

static struct input corpus[CORPUS_MAX];
static size_t corpus_count;
static uint64_t seed;
static const char *corpus_dir;
static char what[256]; /* the input that runs: for the message when it fails */

static void say_what_ran(void)
{
    if (write(STDERR_FILENO, what, strlen(what)) < 0)
        _exit(1);
}

static void die_by_signal(int signal_number)
{
    say_what_ran();
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

/* From a copy of exactly this size, so that AddressSanitizer sees a read beyond. */
static void run_one(const void *bytes, size_t size)
{
    uint8_t *copy = malloc(size + (size == 0));
    if (copy == NULL)
        abort();
    memcpy(copy, bytes, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct input *)a)->name, ((const struct input *)b)->name);
}

static int load_corpus(struct error *err)
{
    DIR *dir = opendir(corpus_dir);
    if (dir == NULL)
        return error_errno(err, errno, "cannot open the corpus %s", corpus_dir);
    struct dirent *entry;
    int r = 0;
    while (r == 0 && corpus_count < CORPUS_MAX && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        char *path = str_format("%s/%s", corpus_dir, entry->d_name);
        struct input *input = &corpus[corpus_count];
        if (path == NULL || (input->name = strdup(entry->d_name)) == NULL)
            abort();
        r = io_read_file(path, INPUT_MAX, &input->bytes, &input->size, err);
        free(path);
        corpus_count++;
    }
    closedir(dir);
    if (r == 0 && corpus_count == 0)
        r = error_set(err, E_NOT_FOUND, "the corpus %s is empty", corpus_dir);
    /* readdir()'s order differs between machines, and a mutation is to be the same on all. */
    qsort(corpus, corpus_count, sizeof(corpus[0]), by_name);
    return r;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static size_t below(uint64_t *state, size_t limit)
{
    return limit == 0 ? 0 : (size_t)(next_random(state) % limit);
}

/* Move what follows at, to make room for (or take away) count bytes. */
static size_t resize_at(uint8_t *bytes, size_t size, size_t at, size_t remove, size_t insert)
{
    memmove(bytes + at + insert, bytes + at + remove, size - at - remove);
    return size - remove + insert;
}

static size_t mutate_once(uint64_t *state, uint8_t *bytes, size_t size)
{
    static const uint8_t interesting[] = {0x00, 0x01, 0x7f, 0x80, 0xff, '=', ',', '0', 0x20, 0x40};
    size_t at = below(state, size), count = 1 + below(state, 16);
    const struct input *other = &corpus[below(state, corpus_count)];
    switch (below(state, 7)) {
    case 0:
        if (size > 0)
            bytes[at] ^= (uint8_t)(1 << below(state, 8));
        return size;
    case 1:
        if (size > 0)
            bytes[at] = interesting[below(state, sizeof(interesting))];
        return size;
    case 2:
        if (size > 0)
            bytes[at] = (uint8_t)next_random(state);
        return size;
    case 3:
        return resize_at(bytes, size, at, count < size - at ? count : size - at, 0);
    case 4:
        if (size + count > INPUT_MAX)
            return size;
        size = resize_at(bytes, size, at, 0, count);
        memset(bytes + at, (int)next_random(state), count);
        return size;
    case 5: /* a piece of another input over this one */
        count = below(state, other->size - (other->size > 0) + 1);
        if (count > size - at)
            count = size - at;
        memcpy(bytes + at, other->bytes + below(state, other->size - count + 1), count);
        return size;
    case 6: /* a piece of another input inserted */
        count = below(state, other->size + 1);
        if (size + count > INPUT_MAX)
            return size;
        size = resize_at(bytes, size, at, 0, count);
        memcpy(bytes + at, other->bytes + below(state, other->size - count + 1), count);
        return size;
    }
    return size;
}

static void run_mutation(uint64_t index)
{
    static uint8_t bytes[INPUT_MAX];
    uint64_t state = seed ^ (index * UINT64_C(0xd1342543de82ef95) + 1);
    const struct input *from = &corpus[below(&state, corpus_count)];
    size_t size = from->size;
    memcpy(bytes, from->bytes, size);
    for (size_t steps = 1 + below(&state, STEPS_MAX); steps > 0; steps--)
        size = mutate_once(&state, bytes, size);
    snprintf(what, sizeof(what), "failed: --seed %llu --first %llu --runs 1 %s\n", (unsigned long long)seed,
             (unsigned long long)index, corpus_dir);
    run_one(bytes, size);
}

static void run_all(uint64_t first, uint64_t runs)
{
    for (size_t i = 0; i < corpus_count; i++) {
        snprintf(what, sizeof(what), "failed: %s/%s\n", corpus_dir, corpus[i].name);
        run_one(corpus[i].bytes, corpus[i].size);
    }
    for (uint64_t index = first; index < first + runs; index++)
        run_mutation(index);
    printf("%zu inputs of %s and %llu mutations with --seed %llu passed\n", corpus_count, corpus_dir,
           (unsigned long long)runs, (unsigned long long)seed);
}

int main(int argc, char **argv)
{
    const char *runs = "0", *seed_text = NULL, *first = "0";
    const struct option_spec options[] = {
        {.name = "runs", .argument = "N", .help = "how many mutations (0)", .value = &runs},
        {.name = "seed", .argument = "S", .help = "their seed (the clock)", .value = &seed_text},
        {.name = "first", .argument = "I", .help = "the number of the first (0)", .value = &first},
    };
    const struct program_spec program = {"fuzz", "run a fuzz target over a corpus", "CORPUS-DIR", options, 3};
    struct error err = {0};
    int operand;
    if (options_parse(&program, argc, argv, &operand, &err) != 0 || operand != argc - 1) {
        fprintf(stderr, "%s\n", err.text != NULL ? err.text : "give one corpus directory");
        return 2;
    }
    corpus_dir = argv[operand];
    seed = seed_text != NULL ? strtoull(seed_text, NULL, 0) : time_now_ns();
    if (load_corpus(&err) != 0) {
        fprintf(stderr, "%s\n", error_text(&err));
        return 2;
    }
    if (__sanitizer_set_death_callback != NULL)
        __sanitizer_set_death_callback(say_what_ran);
    signal(SIGABRT, die_by_signal);
    if (__sanitizer_set_death_callback == NULL)
        signal(SIGSEGV, die_by_signal);
    run_all(strtoull(first, NULL, 0), strtoull(runs, NULL, 0));
    for (size_t i = 0; i < corpus_count; i++) {
        free(corpus[i].name);
        free(corpus[i].bytes);
    }
    return 0;
}
