/* Rows of a packed table, read as float32 one at a time; item_rows.py does the same in NumPy, bit for bit.
 *
 * FLOAT32: the row as it is. BFLOAT16: the upper halves of its numbers. INT8: code * scale of the row. INT4: two
 * codes a byte, the first in the low bits, less 8, times the scale of their group of 32. Then all of it times the
 * row's factor, where there are factors. Each product and sum is rounded to float32. CODES: eight bytes, each the
 * number of one of 256 centroids in its book; `scale` holds the books, and the row is four parts side by side, each
 * the sum of the centroids of two books. MIXED: some rows are INT8 and the others INT4, each in a table of its own;
 * `place` says which and where: p >= 0 is row p of the INT8 rows, p < 0 row -1 - p of the INT4 rows.
 */
#ifndef SLIPSTREAM_PACKED_ROWS_H
#define SLIPSTREAM_PACKED_ROWS_H

#include "kernels.h"

enum Form { FLOAT32, BFLOAT16, INT8, INT4, CODES, MIXED, FORMS };
enum { PACKED_GROUP = 32, PACKED_ZERO = 8, PACKED_MOST = 1 << 14, CODE_PARTS = 4, CODE_LEVELS = 2,
       BOOKS = CODE_PARTS * CODE_LEVELS, CENTROIDS = 256 };

typedef struct {
    long form;
    Py_ssize_t count, dim, groups, part; /* groups of 32 in a row; numbers of a centroid */
    const void *codes;
    const float *scale, *factor;   /* by row, or by group in int4; factor by row or NULL */
    const int32_t *place;          /* MIXED only; then `codes` and `scale` are those of the INT4 rows */
    const int8_t *often;           /* and these of the INT8 rows */
    const float *often_scale;
    Py_buffer views[5], factor_view; /* views: codes and scale, or the places and four parts of MIXED */
} PackedRows;

static inline void close_rows(PackedRows *rows) {
    for (int i = 0; i < 5; i++) PyBuffer_Release(rows->views + i);
    PyBuffer_Release(&rows->factor_view);
}

/* The place of each row, and (INT8 codes, their scales, INT4 codes, their scales); 0 or -1 with an exception. */
static inline int open_mixed(PackedRows *rows, PyObject *place, PyObject *parts) {
    Py_buffer *views = rows->views;
    if (PyObject_GetBuffer(place, views, PyBUF_SIMPLE) < 0) return -1;
    rows->count = views->len / 4, rows->place = views->buf;
    const int fits = views->len % 4 == 0 && (views->itemsize == 4 || views->itemsize == 1) && rows->count <= INT32_MAX;
    if (!fits || !PyTuple_Check(parts) || PyTuple_Size(parts) != 4) {
        PyErr_SetString(PyExc_ValueError, "mixed rows need places of four bytes, and two kinds of codes and scales");
        return -1;
    }
    Py_ssize_t often = 0;
    for (Py_ssize_t i = 0; i < rows->count; i++) often += rows->place[i] >= 0;
    const Py_ssize_t rare = rows->count - often, groups = rows->groups;
    for (Py_ssize_t i = 0; i < rows->count; i++) {
        const int32_t p = rows->place[i];
        if (p >= 0 ? p >= often : -1 - p >= rare) {
            PyErr_SetString(PyExc_ValueError, "a place of the mixed rows is outside its table");
            return -1;
        }
    }
    const Py_ssize_t size[4] = {1, 4, 1, 4};
    const Py_ssize_t count[4] = {often * rows->dim, often, rare * groups * PACKED_GROUP / 2, rare * groups};
    for (int i = 0; i < 4; i++)
        if (numbers(PyTuple_GetItem(parts, i), views + 1 + i, size[i], count[i], 0, "part of the mixed rows") < 0) return -1;
    rows->often = views[1].buf, rows->often_scale = views[2].buf;
    rows->codes = views[3].buf, rows->scale = views[4].buf;
    return 0;
}

/* Codes or float32 of every other form, and scales or books, or None; 0 or -1 with an exception. */
static inline int open_plain(PackedRows *rows, PyObject *codes, PyObject *scale) {
    const Py_ssize_t bytes[MIXED] = {4 * rows->dim, 2 * rows->dim, rows->dim, rows->groups * PACKED_GROUP / 2, BOOKS};
    const Py_ssize_t size[MIXED] = {4, 2, 1, 1, 1}, scales[MIXED] = {0, 0, 1, rows->groups, 0};
    if (PyObject_GetBuffer(codes, rows->views, PyBUF_SIMPLE) < 0) return -1;
    const Py_buffer *view = rows->views;
    rows->count = view->len / bytes[rows->form];
    const int fits = view->len % bytes[rows->form] == 0 && (view->itemsize == size[rows->form] || view->itemsize == 1);
    if (!fits || rows->count > INT32_MAX || (scale != Py_None) != (rows->form >= INT8)) {
        PyErr_SetString(PyExc_ValueError, "the table must hold whole rows, with scales or books where the form has some");
        return -1;
    }
    const Py_ssize_t books = rows->form == CODES ? BOOKS * CENTROIDS * rows->part : 0;
    const Py_ssize_t count = books + rows->count * scales[rows->form];
    if (scale != Py_None && numbers(scale, rows->views + 1, 4, count, 0, "scale of the rows") < 0) return -1;
    rows->codes = rows->views[0].buf, rows->scale = rows->views[1].buf;
    return 0;
}

/* more: form, scale or None (of MIXED the four parts), factor or None; or NULL for float32. 0, or -1 with an exception
 * and nothing to close. */
static inline int open_rows(PackedRows *rows, PyObject *codes, PyObject *const *more, Py_ssize_t dim) {
    *rows = (PackedRows){.form = more ? PyLong_AsLong(more[0]) : FLOAT32, .dim = dim};
    if (PyErr_Occurred()) return -1;
    if (rows->form < 0 || rows->form >= FORMS || dim < 1 || dim > PACKED_MOST) {
        PyErr_SetString(PyExc_ValueError, "rows of this form or width are not known");
        return -1;
    }
    rows->groups = (dim + PACKED_GROUP - 1) / PACKED_GROUP, rows->part = (dim + CODE_PARTS - 1) / CODE_PARTS;
    PyObject *scale = more ? more[1] : Py_None, *factor = more ? more[2] : Py_None;
    const int failed = rows->form == MIXED ? open_mixed(rows, codes, scale) : open_plain(rows, codes, scale);
    if (failed || (factor != Py_None &&
                   numbers(factor, &rows->factor_view, 4, rows->count, 0, "factor of the rows") < 0)) {
        close_rows(rows);
        return -1;
    }
    rows->factor = rows->factor_view.buf;
    return 0;
}

static inline void int8_row(const int8_t *codes, float scale, Py_ssize_t dim, float *room) {
    for (Py_ssize_t j = 0; j < dim; j++) room[j] = (float)codes[j] * scale;
}

static inline void int4_row(const uint8_t *codes, const float *scale, Py_ssize_t dim, float *room) {
    for (Py_ssize_t j = 0; j < dim; j++) {
        const int code = j % 2 ? codes[j / 2] >> 4 : codes[j / 2] & 15;
        room[j] = (float)(code - PACKED_ZERO) * scale[j / PACKED_GROUP];
    }
}

/* The row as float32: where it lies, or unpacked into `room`. */
static inline const float *packed_row(const PackedRows *rows, Py_ssize_t row, float *room) {
    const Py_ssize_t dim = rows->dim;
    if (rows->form == FLOAT32) {
        const float *own = (const float *)rows->codes + row * dim;
        if (!rows->factor) return own;
        memcpy(room, own, (size_t)dim * sizeof(float));
    } else if (rows->form == BFLOAT16) {
        const uint16_t *codes = (const uint16_t *)rows->codes + row * dim;
        for (Py_ssize_t j = 0; j < dim; j++) {
            const uint32_t bits = (uint32_t)codes[j] << 16;
            memcpy(room + j, &bits, sizeof bits);
        }
    } else if (rows->form == INT8) {
        int8_row((const int8_t *)rows->codes + row * dim, rows->scale[row], dim, room);
    } else if (rows->form == MIXED && rows->place[row] >= 0) {
        const Py_ssize_t place = rows->place[row];
        int8_row(rows->often + place * dim, rows->often_scale[place], dim, room);
    } else if (rows->form == CODES) {
        const uint8_t *codes = (const uint8_t *)rows->codes + row * BOOKS;
        for (Py_ssize_t j = 0, b = 0; j < dim; j += rows->part) {
            for (int level = 0; level < CODE_LEVELS; level++, b++) {
                const float *centroid = rows->scale + (b * CENTROIDS + codes[b]) * rows->part;
                for (Py_ssize_t l = 0; l < rows->part && j + l < dim; l++)
                    room[j + l] = level ? room[j + l] + centroid[l] : centroid[l];
            }
        }
    } else {
        const Py_ssize_t place = rows->form == MIXED ? -1 - rows->place[row] : row;
        const uint8_t *codes = (const uint8_t *)rows->codes + place * rows->groups * (PACKED_GROUP / 2);
        int4_row(codes, rows->scale + place * rows->groups, dim, room);
    }
    if (rows->factor)
        for (Py_ssize_t j = 0; j < dim; j++) room[j] *= rows->factor[row];
    return room;
}

#endif
