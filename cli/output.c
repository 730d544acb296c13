/* Tables and JSON. Owns nothing; run by main(). */
#include "cli/output.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"

/* One of several in a cell: a node by its id, anything else as it is. */
static char *format_item(json_t *item)
{
    json_t *node_id = json_object_get(item, "node_id");

    if (json_is_string(item) || json_is_string(node_id))
        return strdup(json_string_value(json_is_string(item) ? item : node_id));
    return json_dumps(item, JSON_COMPACT | JSON_ENCODE_ANY);
}

static char *join(json_t *array)
{
    char *joined = strdup(json_array_size(array) == 0 ? "-" : "");
    json_t *item;
    size_t i;

    json_array_foreach(array, i, item)
    {
        _cleanup_free_ char *text = format_item(item);
        char *longer = joined && text ? str_format("%s%s%s", joined, i > 0 ? "," : "", text) : NULL;

        free(joined);
        joined = longer;
    }
    return joined;
}

static char *format_text(json_t *value)
{
    if (json_is_string(value))
        return strdup(*json_string_value(value) != '\0' ? json_string_value(value) : "-");
    if (json_is_array(value))
        return join(value);
    return value && !json_is_null(value) ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : strdup("-");
}

static char *format(json_t *value, enum output_kind kind)
{
    char text[32] = "-";

    if (!value || json_is_null(value))
        return strdup("-");
    switch (kind) {
    case OUTPUT_TEXT:
        return format_text(value);
    case OUTPUT_BOOL:
        return strdup(json_is_true(value) ? "yes" : "no");
    case OUTPUT_SIZE:
        size_format((uint64_t)json_integer_value(value), text);
        return strdup(text);
    case OUTPUT_TIME:
        if (json_integer_value(value) > 0)
            time_format_utc((time_t)json_integer_value(value), text);
        return strdup(text);
    }
    return NULL;
}

/* Terminals count characters, not bytes: a continuation byte of UTF-8 is no character of its own. */
static size_t width_of(const char *text)
{
    size_t width = 0;

    for (; *text; text++)
        width += (*text & 0xc0) != 0x80;
    return width;
}

static void print_cell(FILE *file, const char *text, size_t width, bool last)
{
    /* A control character in someone's name must not steer the terminal. */
    for (const char *at = text; *at; at++)
        fputc((unsigned char)*at < 0x20 || *at == 0x7f ? '?' : *at, file);
    for (size_t i = width_of(text); !last && i < width + 2; i++)
        fputc(' ', file);
}

static int finish(FILE *file, struct error *err)
{
    if (fflush(file) != 0 || ferror(file))
        return error_errno(err, EIO, "cannot write the output");
    return E_OK;
}

static int print_json(FILE *file, json_t *value, struct error *err)
{
    if (json_dumpf(value, file, JSON_INDENT(2) | JSON_ENCODE_ANY) != 0 || fputc('\n', file) == EOF)
        return error_errno(err, EIO, "cannot write the output");
    return finish(file, err);
}

/* The cells of all rows, titles first, in one array. */
static char **make_cells(json_t *rows, const struct output_column *columns, size_t columns_count)
{
    char **cells = calloc((json_array_size(rows) + 1) * columns_count + 1, sizeof(*cells));
    json_t *row;
    size_t i;

    for (size_t c = 0; cells && c < columns_count; c++)
        cells[c] = strdup(columns[c].title ? columns[c].title : "");
    json_array_foreach(rows, i, row)
    {
        for (size_t c = 0; cells && c < columns_count; c++)
            cells[(i + 1) * columns_count + c] =
                format(json_object_get(row, columns[c].key), columns[c].kind);
    }
    return cells;
}

static void print_cells(FILE *file, char **cells, size_t rows_count, const struct output_column *columns,
                        size_t columns_count)
{
    size_t last = 0;

    for (size_t c = 0; c < columns_count; c++)
        last = columns[c].title ? c : last;
    for (size_t i = 0; i < rows_count; i++) {
        for (size_t c = 0; c < columns_count; c++) {
            size_t width = 0;

            for (size_t k = 0; columns[c].title && k < rows_count; k++)
                width = MAX(width, cells[k * columns_count + c] ? width_of(cells[k * columns_count + c]) : 0);
            if (columns[c].title)
                print_cell(file, cells[i * columns_count + c] ? cells[i * columns_count + c] : "?", width,
                           c == last);
        }
        fputc('\n', file);
    }
}

int output_rows(const struct cli *cli, FILE *file, json_t *rows, const struct output_column *columns,
                size_t columns_count, struct error *err)
{
    size_t cells_count = (json_array_size(rows) + 1) * columns_count;
    char **cells;

    if (cli->output == CLI_JSON)
        return print_json(file, rows, err);
    cells = make_cells(rows, columns, columns_count);
    if (!cells)
        return error_errno(err, ENOMEM, "the table");
    print_cells(file, cells, json_array_size(rows) + 1, columns, columns_count);
    for (size_t i = 0; i < cells_count; i++)
        free(cells[i]);
    free(cells);
    return finish(file, err);
}

void output_add_space(json_t *object, uint64_t used_bytes, uint64_t exclusive_bytes)
{
    uint64_t shared_bytes = used_bytes > exclusive_bytes ? used_bytes - exclusive_bytes : 0;

    json_object_set_new(object, "used_bytes", json_integer((json_int_t)used_bytes));
    json_object_set_new(object, "shared_bytes", json_integer((json_int_t)shared_bytes));
    json_object_set_new(object, "exclusive_bytes", json_integer((json_int_t)exclusive_bytes));
}

int output_object(const struct cli *cli, FILE *file, json_t *object, const struct output_column *columns,
                  size_t columns_count, struct error *err)
{
    size_t width = 0;

    if (cli->output == CLI_JSON)
        return print_json(file, object, err);
    for (size_t c = 0; c < columns_count; c++)
        width = MAX(width, columns[c].title ? width_of(columns[c].title) : 0);
    for (size_t c = 0; c < columns_count; c++) {
        json_t *value = json_object_get(object, columns[c].key);
        _cleanup_free_ char *text = format(value, columns[c].kind);

        if (!columns[c].title || !value)
            continue;
        print_cell(file, columns[c].title, width, false);
        print_cell(file, text ? text : "?", 0, true);
        fputc('\n', file);
    }
    return finish(file, err);
}
