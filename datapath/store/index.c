/*
 * Pointers sorted by a string key: what the store knows of volumes, nodes and names. An array: 10,000 entries
 * are found in 14 comparisons, walked in order from anywhere, and moved by one memmove of 80 KiB at most. The
 * caller's lock guards it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "datapath/store/store_internal.h"

size_t index_position(const struct index *index, const char *key, bool *ret_found)
{
    size_t low = 0, high = index->count;

    *ret_found = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(index->key(index->items[middle]), key);

        if (order == 0) {
            *ret_found = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void *index_find(const struct index *index, const char *key)
{
    bool found;
    size_t position = index_position(index, key, &found);

    return found ? index->items[position] : NULL;
}

static int make_room(struct index *index)
{
    size_t room = index->room > 0 ? index->room * 2 : 64;
    void **items;

    if (index->count < index->room)
        return 0;
    items = realloc(index->items, room * sizeof(*items));
    if (!items)
        return -ENOMEM;
    index->items = items;
    index->room = room;
    return 0;
}

int index_insert(struct index *index, void *item)
{
    bool found;
    size_t position = index_position(index, index->key(item), &found);

    if (make_room(index) < 0)
        return -ENOMEM;
    memmove(&index->items[position + 1], &index->items[position],
            (index->count - position) * sizeof(*index->items));
    index->items[position] = item;
    index->count++;
    return 0;
}

void *index_remove(struct index *index, const char *key)
{
    bool found;
    size_t position = index_position(index, key, &found);
    void *item;

    if (!found)
        return NULL;
    item = index->items[position];
    index->count--;
    memmove(&index->items[position], &index->items[position + 1],
            (index->count - position) * sizeof(*index->items));
    return item;
}

int index_append(struct index *index, void *item)
{
    if (make_room(index) < 0)
        return -ENOMEM;
    index->items[index->count++] = item;
    return 0;
}

static int compare(const void *a, const void *b, void *context)
{
    const struct index *index = context;

    return strcmp(index->key(*(void *const *)a), index->key(*(void *const *)b));
}

void *index_sort(struct index *index)
{
    if (index->count > 0)
        qsort_r(index->items, index->count, sizeof(*index->items), compare, index);
    for (size_t i = 1; i < index->count; i++) {
        if (compare(&index->items[i - 1], &index->items[i], index) == 0)
            return index->items[i];
    }
    return NULL;
}

void index_done(struct index *index)
{
    free(index->items);
    index->items = NULL;
    index->count = index->room = 0;
}
