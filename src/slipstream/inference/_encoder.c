/* The transformer's encoder: one event in a few microseconds, or whole histories; encoder.py says what is right.
 *
 * Matrices are packed once into panels of columns, so each weight is read once, in order, with no horizontal
 * sums. A step is bound by reading the weights: 12 D^2 numbers a layer. Keys of a user are kept turned, [D][W],
 * so that the lanes of a register are positions and neither logits nor softmax need sums across lanes. The ring
 * is never moved: what is looked at are one or two stretches of it. It has some slots more than the window, so
 * that it still holds what the latest events saw: then one pass tells the vector without each of them.
 */
#include "kernels.h"
#include "packed_rows.h"

#include <math.h>

enum Ffn { SILU, GELU, SWIGLU };
enum {
    PADDING = 16,    /* numbers that a whole register may reach beyond an end */
    FFN_ROWS = 48,   /* rows whose inner layer is held at once */
    TOGETHER = 256,  /* tokens of whole histories that go through together */
    LATEST = 10,     /* events that can be left out */
    MOST = 1 << 14,  /* bound of every size, so that products cannot overflow */
};
static const double NEVER = -1e30;
static const char ENCODER[] = "slipstream.inference._encoder.encoder";

typedef struct Arena Arena;
typedef struct Arithmetic Arithmetic;

typedef struct {
    Py_ssize_t layers, dim, heads, window, inner, bins, items;
    Py_ssize_t slots, pitch; /* of a ring: the window and LATEST - 1 more; the same rounded up to PADDING */
    int ffn, gated;
    size_t size; /* of a number: 4 or 8 bytes */
    const void *item, *gap; /* item: of a table in double precision */
    PackedRows rows;        /* the table in single precision */
    void *input_norm[2], *final_norm[2], *blocks;
    const Arithmetic *arithmetic;
    Arena *arena;
    Py_buffer item_view, gap_view;
} Encoder;

struct Arithmetic {
    int (*open)(Encoder *, const void *, Arena *);
    size_t (*room)(const Encoder *, Py_ssize_t, Py_ssize_t);
    void (*step)(const Encoder *, Py_ssize_t, void *, int64_t, const int32_t *, const int64_t *, void *, void *);
    void (*whole)(const Encoder *, Py_ssize_t, Py_ssize_t *, const int32_t *, const int64_t *, Py_ssize_t, void *,
                  int64_t, void *, void *);
    void (*variants)(const Encoder *, const void *, void *, int64_t, int64_t, int, const int32_t *, const int64_t *,
                     const int64_t *, void *, void *);
};

/* Zeroed memory at cache lines, freed all at once. */
struct Arena {
    Arena *next;
};

static void *lines_of_memory(size_t bytes) {
    void *memory = NULL;
    return posix_memalign(&memory, 64, bytes ? bytes : 64) ? NULL : memory;
}

static void *allot(Arena *arena, size_t bytes) {
    Arena *part = lines_of_memory(64 + bytes);
    if (!part) return NULL;
    memset(part, 0, 64 + bytes);
    part->next = arena->next;
    arena->next = part;
    return (char *)part + 64;
}

static void free_arena(Arena *arena) {
    while (arena) {
        Arena *next = arena->next;
        free(arena);
        arena = next;
    }
}

#define REAL float
#define SINGLE 1
#define BYTES 16
#define PANEL 2
#define ROWS 6
#define NAME(x) x##_single_portable
#include "_encoder_loop.h"
#define REAL double
#define SINGLE 0
#define BYTES 16
#define PANEL 2
#define ROWS 6
#define NAME(x) x##_double_portable
#include "_encoder_loop.h"

#if HAS_X86
KERNELS_FOR(AVX2_FEATURES)
#define REAL float
#define SINGLE 1
#define BYTES 32
#define PANEL 2
#define ROWS 6
#define NAME(x) x##_single_avx2
#include "_encoder_loop.h"
#define REAL double
#define SINGLE 0
#define BYTES 32
#define PANEL 2
#define ROWS 6
#define NAME(x) x##_double_avx2
#include "_encoder_loop.h"
KERNELS_END

KERNELS_FOR(AVX512_FEATURES)
#define REAL float
#define SINGLE 1
#define BYTES 64
#define PANEL 4
#define ROWS 6
#define NAME(x) x##_single_avx512
#include "_encoder_loop.h"
#define REAL double
#define SINGLE 0
#define BYTES 64
#define PANEL 4
#define ROWS 6
#define NAME(x) x##_double_avx512
#include "_encoder_loop.h"
KERNELS_END
#endif

static const Arithmetic *const ARITHMETIC[LEVELS][2] = {
    {&arithmetic_single_portable, &arithmetic_double_portable},
#if HAS_X86
    {&arithmetic_single_avx2, &arithmetic_double_avx2},
    {&arithmetic_single_avx512, &arithmetic_double_avx512},
#endif
};

/* -- the Python door ------------------------------------------------------------------------------------- */

static void free_encoder(Encoder *encoder) {
    PyBuffer_Release(&encoder->item_view);
    PyBuffer_Release(&encoder->gap_view);
    close_rows(&encoder->rows);
    free_arena(encoder->arena);
    free(encoder);
}

static void close_encoder(PyObject *capsule) {
    Encoder *encoder = PyCapsule_GetPointer(capsule, ENCODER);
    if (encoder) free_encoder(encoder);
}

static Py_ssize_t weights_of(const Encoder *e) {
    const Py_ssize_t wide = e->ffn == SWIGLU ? 2 * e->inner : e->inner;
    const Py_ssize_t gates = e->gated ? 2 * (e->dim * e->dim + e->dim) : 0;
    const Py_ssize_t attention = 4 * e->dim * e->dim + 4 * e->dim + e->heads * e->window;
    return 4 * e->dim + e->layers * (4 * e->dim + attention + wide * (e->dim + 1) + e->dim * (e->inner + 1) + gates);
}

/* open(level, double, layers, dim, heads, window, inner, ffn, gated, weights, item, gap or None[, form of the items,
 * scale or None, factor or None]): packed items belong to single precision. */
static PyObject *open_encoder(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (!enough_arguments(count, count == 15 ? 15 : 12, "open")) return NULL;
    const int level = level_of(args[0]);
    if (level < 0) return NULL;
    Py_ssize_t sizes[8];
    for (int i = 0; i < 8; i++) {
        sizes[i] = PyLong_AsSsize_t(args[i + 1]);
        if (PyErr_Occurred()) return NULL;
        if (sizes[i] < (i >= 1 && i <= 5) || sizes[i] > MOST) {
            PyErr_SetString(PyExc_ValueError, "a size of the encoder is out of bounds");
            return NULL;
        }
    }
    if (sizes[2] % sizes[3] || sizes[6] > SWIGLU) {
        PyErr_SetString(PyExc_ValueError, "heads must divide dim, and ffn must be 0, 1 or 2");
        return NULL;
    }
    Encoder *e = calloc(1, sizeof(Encoder));
    if (!e || !(e->arena = calloc(1, sizeof(Arena)))) {
        free(e);
        return PyErr_NoMemory();
    }
    e->size = sizes[0] ? 8 : 4, e->layers = sizes[1], e->dim = sizes[2], e->heads = sizes[3], e->window = sizes[4];
    e->inner = sizes[5], e->ffn = (int)sizes[6], e->gated = sizes[7] != 0;
    e->slots = e->window + LATEST - 1, e->pitch = (e->slots + PADDING - 1) / PADDING * PADDING;
    e->arithmetic = ARITHMETIC[level][sizes[0] != 0];
    Py_buffer weights = {0};
    PyObject *capsule = NULL;
    const Py_ssize_t row = (Py_ssize_t)e->size * e->dim;
    if (numbers(args[9], &weights, (Py_ssize_t)e->size, weights_of(e), 0, "weights") < 0) goto done;
    if (sizes[0] && PyObject_GetBuffer(args[10], &e->item_view, PyBUF_SIMPLE) < 0) goto done;
    if (!sizes[0] && open_rows(&e->rows, args[10], count == 15 ? args + 12 : NULL, e->dim) < 0) goto done;
    if (args[11] != Py_None && PyObject_GetBuffer(args[11], &e->gap_view, PyBUF_SIMPLE) < 0) goto done;
    if (e->item_view.len % row || e->gap_view.len % row || e->item_view.len / row > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "item and gap must hold whole rows");
        goto done;
    }
    e->items = sizes[0] ? e->item_view.len / row : e->rows.count, e->bins = e->gap_view.len / row;
    e->item = e->item_view.buf, e->gap = e->gap_view.buf;
    if (e->arithmetic->open(e, weights.buf, e->arena) < 0)
        PyErr_NoMemory();
    else
        capsule = PyCapsule_New(e, ENCODER, close_encoder);
done:
    PyBuffer_Release(&weights);
    if (!capsule) free_encoder(e);
    return capsule;
}

/* Tokens that may be looked up: items of the table, bins of the clock. */
static int known_tokens(const Encoder *e, Py_ssize_t count, const int32_t *item, const int64_t *gap) {
    for (Py_ssize_t t = 0; t < count; t++)
        if (item[t] < 0 || item[t] >= e->items || gap[t] < 0 || gap[t] >= (e->bins ? e->bins : 1)) {
            PyErr_SetString(PyExc_IndexError, "an item or a gap bin is outside its table");
            return 0;
        }
    return 1;
}

static Py_ssize_t ring_of(const Encoder *e) { return e->layers * 2 * e->dim * e->pitch; }

/* step(encoder, states, rings, count, item, gap, out): appends one event to each state, in place. */
static PyObject *step(PyObject *module, PyObject *const *args, Py_ssize_t argument_count) {
    (void)module;
    if (!enough_arguments(argument_count, 7, "step")) return NULL;
    Encoder *e = PyCapsule_GetPointer(args[0], ENCODER);
    if (!e) return NULL;
    const Py_ssize_t states = PyLong_AsSsize_t(args[1]);
    const int64_t count = PyErr_Occurred() ? -1 : PyLong_AsLongLong(args[3]);
    if (PyErr_Occurred()) return NULL;
    if (states < 0 || states > MOST || count < 0) {
        PyErr_SetString(PyExc_ValueError, "states and count must not be negative");
        return NULL;
    }
    Py_buffer rings = {0}, item = {0}, gap = {0}, out = {0};
    PyObject *answer = NULL;
    void *scratch = NULL;
    const Py_ssize_t size = (Py_ssize_t)e->size;
    if (numbers(args[2], &rings, size, states * ring_of(e), 1, "rings") < 0) goto done;
    if (numbers(args[4], &item, 4, states, 0, "item") < 0 || numbers(args[5], &gap, 8, states, 0, "gap") < 0) goto done;
    if (numbers(args[6], &out, size, states * e->dim, 1, "out") < 0) goto done;
    if (!known_tokens(e, states, item.buf, gap.buf)) goto done;
    if (!(scratch = lines_of_memory(e->arithmetic->room(e, states, 0) * e->size))) {
        PyErr_NoMemory();
        goto done;
    }
    e->arithmetic->step(e, states, rings.buf, count, item.buf, gap.buf, out.buf, scratch);
    answer = Py_None;
    Py_INCREF(answer);
done:
    free(scratch);
    PyBuffer_Release(&rings), PyBuffer_Release(&item), PyBuffer_Release(&gap), PyBuffer_Release(&out);
    return answer;
}

/* The bin of a gap of microseconds, as `gap_bin` in encoder.py. */
static int64_t bin_between(const Encoder *e, int64_t earlier_us, int64_t later_us) {
    int64_t gap;
    if (__builtin_sub_overflow(later_us, earlier_us, &gap)) gap = INT64_MAX;
    if (gap <= 0) return 1;
    const uint64_t seconds = gap < 1000000 ? 1 : (uint64_t)gap / 1000000;
    const int64_t bin = 65 - __builtin_clzll(seconds);
    return bin < e->bins - 1 ? bin : e->bins - 1;
}

/* gap [latest]: of each of the latest events; later [latest]: of the event after it, had it not been there. */
static void latest_gaps(const Encoder *e, const int64_t *time_us, int64_t count, Py_ssize_t latest, int64_t *gap,
                        int64_t *later) {
    for (Py_ssize_t n = 0; n < latest; n++) {
        const int64_t at = count - latest + n;
        gap[n] = at ? bin_between(e, time_us[at - 1], time_us[at]) : 0;
        later[n] = at && at + 1 < count ? bin_between(e, time_us[at - 1], time_us[at + 1]) : 0;
    }
}

static Py_ssize_t own_of(const Encoder *e) {
    return e->layers * 2 * e->dim * (LATEST - 1) * (LATEST - 1); /* keys may be read as whole vectors: values follow */
}

/* leave_each_out(encoder, ring, own, held, count, again, item, time_us or None, out): the vectors without each of the
 * latest events of a history, item and time_us [count]; own: what was computed after `held` events. */
static PyObject *leave_each_out(PyObject *module, PyObject *const *args, Py_ssize_t argument_count) {
    (void)module;
    if (!enough_arguments(argument_count, 9, "leave_each_out")) return NULL;
    Encoder *e = PyCapsule_GetPointer(args[0], ENCODER);
    if (!e) return NULL;
    const int64_t held = PyLong_AsLongLong(args[3]);
    const int64_t count = PyErr_Occurred() ? -1 : PyLong_AsLongLong(args[4]);
    const int again = PyErr_Occurred() ? -1 : PyObject_IsTrue(args[5]);
    if (PyErr_Occurred()) return NULL;
    if (count < 2 || held < 0 || held >= count) {
        PyErr_SetString(PyExc_ValueError, "there must be two events, and one more than are held");
        return NULL;
    }
    Py_buffer ring = {0}, own = {0}, item = {0}, time_us = {0}, out = {0};
    PyObject *answer = NULL;
    int64_t gap[LATEST] = {0}, later[LATEST] = {0};
    const Py_ssize_t size = (Py_ssize_t)e->size, latest = count < LATEST ? (Py_ssize_t)count : LATEST;
    const Py_ssize_t rows = latest * (latest - 1) / 2 + 1;
    if (numbers(args[1], &ring, size, ring_of(e), 0, "ring") < 0) goto done;
    if (numbers(args[2], &own, size, own_of(e), 1, "own") < 0) goto done;
    if (numbers(args[6], &item, 4, count, 0, "item") < 0) goto done;
    if (args[7] != Py_None && numbers(args[7], &time_us, 8, count, 0, "time_us") < 0) goto done;
    if (numbers(args[8], &out, size, latest * e->dim, 1, "out") < 0) goto done;
    if (e->bins && time_us.buf) latest_gaps(e, time_us.buf, count, latest, gap, later);
    const int32_t *items = (const int32_t *)item.buf + count - latest;
    if (!known_tokens(e, latest, items, gap) || !known_tokens(e, latest, items, later)) goto done;
    void *scratch = lines_of_memory(e->arithmetic->room(e, rows, 0) * e->size);
    if (!scratch) {
        PyErr_NoMemory();
        goto done;
    }
    PyThreadState *state = PyEval_SaveThread();
    e->arithmetic->variants(e, ring.buf, own.buf, held, count, again, items, gap, later, out.buf, scratch);
    PyEval_RestoreThread(state);
    free(scratch);
    answer = Py_None;
    Py_INCREF(answer);
done:
    PyBuffer_Release(&ring), PyBuffer_Release(&own), PyBuffer_Release(&item), PyBuffer_Release(&time_us);
    PyBuffer_Release(&out);
    return answer;
}

/* Groups of histories go through together, so that short ones fill the tiles; -1 without memory. */
static int encode_all(const Encoder *e, Py_ssize_t count, const int64_t *offsets, const int32_t *item,
                      const int64_t *gap, void *ring, char *out) {
    const Py_ssize_t field = e->layers * (e->window - 1) + 1 + (ring ? e->slots - e->window : 0), most = field > TOGETHER ? field : TOGETHER;
    Py_ssize_t *lengths = malloc((size_t)most * sizeof(Py_ssize_t));
    int32_t *items = malloc((size_t)most * sizeof(int32_t));
    int64_t *gaps = malloc((size_t)most * sizeof(int64_t));
    char *vectors = malloc((size_t)(most * e->dim) * e->size);
    void *scratch = lines_of_memory(e->arithmetic->room(e, most, most) * e->size);
    const int there = lengths && items && gaps && vectors && scratch;
    Py_ssize_t first = 0, tokens = 0, group = 0;
    for (Py_ssize_t q = 0; there && q <= count; q++) {
        const int64_t held = q < count ? offsets[q + 1] - offsets[q] : 0;
        const Py_ssize_t length = held < field ? (Py_ssize_t)held : field;
        if (group && (q == count || tokens + length > most)) {
            e->arithmetic->whole(e, group, lengths, items, gaps, tokens, ring, count == 1 ? offsets[1] - offsets[0] : 0,
                                 vectors, scratch);
            const size_t row = (size_t)e->dim * e->size;
            for (Py_ssize_t b = 0; first < q; first++)
                if (offsets[first + 1] > offsets[first]) memcpy(out + (size_t)first * row, vectors + (size_t)b++ * row, row);
            tokens = group = 0;
        }
        if (!length) continue;
        if (!group) first = q;
        memcpy(items + tokens, item + offsets[q + 1] - length, (size_t)length * sizeof(int32_t));
        memcpy(gaps + tokens, gap + offsets[q + 1] - length, (size_t)length * sizeof(int64_t));
        lengths[group++] = length;
        tokens += length;
    }
    free(lengths), free(items), free(gaps), free(vectors), free(scratch);
    return there ? 0 : -1;
}

/* encode(encoder, histories, offsets, tokens, item, gap, ring or None, out): rows of empty histories are left. */
static PyObject *encode(PyObject *module, PyObject *const *args, Py_ssize_t argument_count) {
    (void)module;
    if (!enough_arguments(argument_count, 8, "encode")) return NULL;
    Encoder *e = PyCapsule_GetPointer(args[0], ENCODER);
    if (!e) return NULL;
    const Py_ssize_t count = PyLong_AsSsize_t(args[1]);
    const Py_ssize_t tokens = PyErr_Occurred() ? -1 : PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred()) return NULL;
    Py_buffer offsets = {0}, item = {0}, gap = {0}, ring = {0}, out = {0};
    PyObject *answer = NULL;
    const Py_ssize_t size = (Py_ssize_t)e->size;
    if (count < 0 || tokens < 0 || (args[6] != Py_None && count != 1)) {
        PyErr_SetString(PyExc_ValueError, "a ring belongs to one history");
        return NULL;
    }
    if (numbers(args[2], &offsets, 8, count + 1, 0, "offsets") < 0) goto done;
    if (numbers(args[4], &item, 4, tokens, 0, "item") < 0 || numbers(args[5], &gap, 8, tokens, 0, "gap") < 0) goto done;
    if (args[6] != Py_None && numbers(args[6], &ring, size, ring_of(e), 1, "ring") < 0) goto done;
    if (numbers(args[7], &out, size, count * e->dim, 1, "out") < 0) goto done;
    const int64_t *at = offsets.buf;
    for (Py_ssize_t q = 0; q < count; q++)
        if (at[0] < 0 || at[q + 1] < at[q] || at[q + 1] > tokens) {
            PyErr_SetString(PyExc_ValueError, "offsets must rise from 0 on and end within the tokens");
            goto done;
        }
    if (!known_tokens(e, tokens, item.buf, gap.buf)) goto done;
    PyThreadState *state = PyEval_SaveThread();
    const int failed = encode_all(e, count, at, item.buf, gap.buf, ring.buf, out.buf);
    PyEval_RestoreThread(state);
    answer = failed ? PyErr_NoMemory() : Py_None;
    Py_XINCREF(answer);
done:
    PyBuffer_Release(&offsets), PyBuffer_Release(&item), PyBuffer_Release(&gap), PyBuffer_Release(&ring);
    PyBuffer_Release(&out);
    return answer;
}

static PyMethodDef METHODS[] = {
    {"levels", levels, METH_NOARGS, "levels() -> the instruction sets that can be used, best last"},
    {"open", (PyCFunction)(void (*)(void))open_encoder, METH_FASTCALL,
     "open(level, double, layers, dim, heads, window, inner, ffn, gated, weights, item, gap or None[, form, scale,"
     " factor of the items]) -> encoder"},
    {"step", (PyCFunction)(void (*)(void))step, METH_FASTCALL, "step(encoder, states, rings, count, item, gap, out)"},
    {"leave_each_out", (PyCFunction)(void (*)(void))leave_each_out, METH_FASTCALL,
     "leave_each_out(encoder, ring, own, held, count, again, item, time_us or None, out)"},
    {"encode", (PyCFunction)(void (*)(void))encode, METH_FASTCALL,
     "encode(encoder, histories, offsets, tokens, item, gap, ring or None, out)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_encoder", "The encoder in C.", 0, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__encoder(void) { return PyModule_Create(&MODULE); }
