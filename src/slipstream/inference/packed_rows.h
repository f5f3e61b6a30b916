/* Rows of a packed table, read as float32 one at a time; item_rows.py does the same in NumPy, bit for bit.
 *
 * FLOAT32: the row as it is. BFLOAT16: the upper halves of its numbers. INT8: code * scale of the row. INT4: two
 * codes a byte, the first in the low bits, less 8, times the scale of their group of 32. Then all of it times the
 * row's factor, where there are factors. Each product and sum is rounded to float32. CODES: eight bytes, each the
 * number of one of 256 centroids in its book; `scale` holds the books, and the row is four parts side by side, each
 * the sum of the centroids of two books.
 */
#ifndef SLIPSTREAM_PACKED_ROWS_H
#define SLIPSTREAM_PACKED_ROWS_H

#include "kernels.h"

enum Form { FLOAT32, BFLOAT16, INT8, INT4, CODES, FORMS };
enum { PACKED_GROUP = 32, PACKED_ZERO = 8, PACKED_MOST = 1 << 14, CODE_PARTS = 4, CODE_LEVELS = 2,
       BOOKS = CODE_PARTS * CODE_LEVELS, CENTROIDS = 256 };

typedef struct {
    long form;
    Py_ssize_t count, dim, groups, part; /* groups of 32 in a row; numbers of a centroid */
    const void *codes;
    const float *scale, *factor;   /* by row, or by group in int4; factor by row or NULL */
    Py_buffer views[3];
} PackedRows;

static inline void close_rows(PackedRows *rows) {
    for (int i = 0; i < 3; i++) PyBuffer_Release(rows->views + i);
}

/* more: form, scale or None, factor or None; or NULL for float32. 0, or -1 with an exception and nothing to close. */
static inline int open_rows(PackedRows *rows, PyObject *codes, PyObject *const *more, Py_ssize_t dim) {
    *rows = (PackedRows){.form = more ? PyLong_AsLong(more[0]) : FLOAT32, .dim = dim};
    if (PyErr_Occurred()) return -1;
    if (rows->form < 0 || rows->form >= FORMS || dim < 1 || dim > PACKED_MOST) {
        PyErr_SetString(PyExc_ValueError, "rows of this form or width are not known");
        return -1;
    }
    rows->groups = (dim + PACKED_GROUP - 1) / PACKED_GROUP, rows->part = (dim + CODE_PARTS - 1) / CODE_PARTS;
    const Py_ssize_t bytes[FORMS] = {4 * dim, 2 * dim, dim, rows->groups * PACKED_GROUP / 2, BOOKS};
    const Py_ssize_t size[FORMS] = {4, 2, 1, 1, 1}, scales[FORMS] = {0, 0, 1, rows->groups, 0};
    if (PyObject_GetBuffer(codes, rows->views, PyBUF_SIMPLE) < 0) return -1;
    const Py_buffer *view = rows->views;
    rows->count = view->len / bytes[rows->form];
    const int fits = view->len % bytes[rows->form] == 0 && (view->itemsize == size[rows->form] || view->itemsize == 1);
    if (!fits || rows->count > INT32_MAX || (more && (more[1] != Py_None) != (rows->form >= INT8))) {
        PyErr_SetString(PyExc_ValueError, "the table must hold whole rows, with scales or books where the form has some");
        goto fail;
    }
    const Py_ssize_t books = rows->form == CODES ? BOOKS * CENTROIDS * rows->part : 0;
    if (more && more[1] != Py_None &&
        numbers(more[1], rows->views + 1, 4, books + rows->count * scales[rows->form], 0, "scale of the rows") < 0)
        goto fail;
    if (more && more[2] != Py_None && numbers(more[2], rows->views + 2, 4, rows->count, 0, "factor of the rows") < 0)
        goto fail;
    rows->codes = rows->views[0].buf, rows->scale = rows->views[1].buf, rows->factor = rows->views[2].buf;
    return 0;
fail:
    close_rows(rows);
    return -1;
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
        const int8_t *codes = (const int8_t *)rows->codes + row * dim;
        const float scale = rows->scale[row];
        for (Py_ssize_t j = 0; j < dim; j++) room[j] = (float)codes[j] * scale;
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
        const uint8_t *codes = (const uint8_t *)rows->codes + row * rows->groups * (PACKED_GROUP / 2);
        const float *scale = rows->scale + row * rows->groups;
        for (Py_ssize_t j = 0; j < dim; j++) {
            const int code = j % 2 ? codes[j / 2] >> 4 : codes[j / 2] & 15;
            room[j] = (float)(code - PACKED_ZERO) * scale[j / PACKED_GROUP];
        }
    }
    if (rows->factor)
        for (Py_ssize_t j = 0; j < dim; j++) room[j] *= rows->factor[row];
    return room;
}

#endif
