/* The exact best K of a table of item vectors, by one pass over an int8 copy of it.
 *
 * The table [blocks][dim/4][32 items][4 bytes] holds v + 128, where x = scale * v + e. With the query
 * q = t * w + f, |q.x - t * scale * (w.v)| <= |q| |e| + |f| |scale * v|; per block the largest |e| and
 * |scale * v| are kept. So each item has an upper bound, and an item whose bound is below the K-th best exact
 * score so far cannot be an answer. All others are scored exactly, at once, from the rows themselves (float32, or
 * packed and unpacked one by one): the answer is that of brute force by construction, without a second pass. Items lie in descending order of |x|, so the
 * pass ends where |q| times the largest norm still to come is below the K-th best.
 *
 * The exact score is the dot product of the float32 rows in float64, in the order of `exact`, rounded to
 * float32; answers are sorted by (-score, item number). item_index.py does the same in NumPy, bit for bit.
 */
#include "kernels.h"
#include "packed_rows.h"

#include <float.h>
#include <math.h>

enum { BLOCK = 32, GROUP = 8, CHUNK = 32, VIEWS = 6, MOST_DIM = 1024 };
static const float LARGEST = 1e15f;
static const float ROUNDING = 1e-6f; /* far above the float32 rounding of sums, bounds and scores */
static const double TINY = 1e-37;    /* the same for numbers too small to have 24 bits */
static const char TABLE[] = "slipstream.inference._scan.table";

typedef struct {
    const uint8_t *lines;
    const float *scale;    /* [slots] */
    const float *error;    /* [blocks] largest |e| */
    const float *size;     /* [blocks] largest |scale * v| */
    const float *norm;     /* [blocks] largest |x| from this block on */
    const int32_t *number; /* [slots] item number; -1 in an empty slot */
    PackedRows rows;       /* [items, dim] */
    Py_ssize_t blocks, words, dim, items; /* words: of 4 bytes, in a vector */
    Py_buffer views[VIEWS];
} Table;

typedef struct {
    const float *vector;
    double *exact;   /* the vector in float64 */
    int32_t *words;  /* w, four bytes a word */
    int32_t start;   /* -128 * sum(w): the table holds v + 128 */
    double unit;     /* t */
    double length;   /* |q| */
    float per_error, per_size; /* what |e| and |scale * v| add to a bound, in units of t */
} Query;

typedef struct {
    int32_t *words; /* [words][GROUP] */
    int32_t start[GROUP];
    float per_error[GROUP], per_size[GROUP], root[GROUP];
} Group;

typedef struct { /* a heap with the worst of the K best on top */
    float *score;
    int32_t *item;
    Py_ssize_t count, k;
    const uint8_t *excluded; /* [items] or NULL */
    long long rescored;
    float root; /* what a bound must reach, in units of t */
} Best;

#include "_scan_lanes.h"

/* -- the K best ------------------------------------------------------------------------------------------ */

static inline int worse(float score, int32_t item, float other_score, int32_t other_item) {
    return score < other_score || (score == other_score && item > other_item);
}

static void sift_down(Best *best, Py_ssize_t count, float score, int32_t item) {
    Py_ssize_t place = 0;
    for (Py_ssize_t child; (child = 2 * place + 1) < count; place = child) {
        if (child + 1 < count &&
            worse(best->score[child + 1], best->item[child + 1], best->score[child], best->item[child]))
            child++;
        if (!worse(best->score[child], best->item[child], score, item)) break;
        best->score[place] = best->score[child];
        best->item[place] = best->item[child];
    }
    best->score[place] = score;
    best->item[place] = item;
}

static void push(Best *best, float score, int32_t item) {
    if (best->count == best->k) {
        if (worse(best->score[0], best->item[0], score, item)) sift_down(best, best->k, score, item);
        return;
    }
    Py_ssize_t place = best->count++;
    for (Py_ssize_t parent; place > 0; place = parent) {
        parent = (place - 1) / 2;
        if (!worse(score, item, best->score[parent], best->item[parent])) break;
        best->score[place] = best->score[parent];
        best->item[place] = best->item[parent];
    }
    best->score[place] = score;
    best->item[place] = item;
}

/* Best first; places without an answer become (-1, -inf). */
static void sort_best(Best *best) {
    for (Py_ssize_t left = best->count; left > 1; left--) {
        const float score = best->score[left - 1];
        const int32_t item = best->item[left - 1];
        best->score[left - 1] = best->score[0];
        best->item[left - 1] = best->item[0];
        sift_down(best, left - 1, score, item);
    }
    for (Py_ssize_t place = best->count; place < best->k; place++) {
        best->score[place] = -INFINITY;
        best->item[place] = -1;
    }
}

/* Below the K-th best by more than any rounding. */
static float root_of(const Best *best, const Query *query) {
    if (best->count < best->k) return -INFINITY;
    const double root = best->score[0];
    return (float)((root - fabs(root) * ROUNDING - TINY) / query->unit - TINY);
}

static void meet(const Table *table, const Query *query, Best *best, const Loops *loops, Py_ssize_t block, uint32_t found,
                 const float *upper) {
    const int32_t *number = table->number + block * BLOCK;
    float room[MOST_DIM];
    for (; found; found &= found - 1) {
        const int lane = __builtin_ctz(found);
        const int32_t item = number[lane];
        if (item < 0 || !(upper[lane] >= best->root) || (best->excluded && best->excluded[item])) continue;
        best->rescored++;
        push(best, loops->exact(query->exact, packed_row(&table->rows, item, room), table->dim), item);
        best->root = root_of(best, query);
    }
}

static int finished(const Table *table, const Query *query, const Best *best, Py_ssize_t block) {
    if (best->count < best->k) return 0;
    const double root = best->score[0];
    return query->length * table->norm[block] * (1 + ROUNDING) < root - fabs(root) * ROUNDING - TINY;
}

static void search_one(const Table *table, const Query *query, Best *best, const Loops *loops) {
    float upper[BLOCK];
    uint32_t found;
    for (Py_ssize_t start = 0; start < table->blocks; start += CHUNK) {
        if (finished(table, query, best, start)) return;
        const Py_ssize_t stop = start + CHUNK < table->blocks ? start + CHUNK : table->blocks;
        for (Py_ssize_t block = start; block < stop; block++) {
            block = loops->find_one(table, query, best->root, block, stop, &found, upper);
            if (block < stop) meet(table, query, best, loops, block, found, upper);
        }
    }
}

/* Chunks outermost: the table comes from memory once, whatever the number of queries. */
static void search_many(const Table *table, const Query *query, Best *best, Group *group, Py_ssize_t groups,
                        const Loops *loops) {
    float upper[BLOCK * GROUP];
    uint32_t found[GROUP];
    for (Py_ssize_t start = 0; start < table->blocks; start += CHUNK) {
        const Py_ssize_t stop = start + CHUNK < table->blocks ? start + CHUNK : table->blocks;
        for (Py_ssize_t g = 0; g < groups; g++) {
            const Query *queries = query + g * GROUP;
            Best *bests = best + g * GROUP;
            int left = 0;
            for (int q = 0; q < GROUP; q++) left += !finished(table, queries + q, bests + q, start);
            for (Py_ssize_t block = start; left && block < stop; block++) {
                for (int q = 0; q < GROUP; q++) group[g].root[q] = bests[q].root;
                block = loops->find_group(table, group + g, block, stop, found, upper);
                for (int q = 0; block < stop && q < GROUP; q++)
                    if (found[q]) meet(table, queries + q, bests + q, loops, block, found[q], upper + q * BLOCK);
            }
        }
    }
}

/* -- queries --------------------------------------------------------------------------------------------- */

/* w = round(q / t) in [-127, 127], with what its rounding costs. 0 for a query that has no answer: with NaN, or a
 * number so large that a product could leave float32 (LARGEST of item_index.py). */
static int quantise(Query *query, const Table *table) {
    float largest = 0;
    for (Py_ssize_t j = 0; j < table->dim; j++) {
        const float value = query->vector[j];
        if (!(fabsf(value) <= LARGEST)) return 0;
        query->exact[j] = value;
        largest = fmaxf(largest, fabsf(value));
    }
    const double unit = query->unit = largest > 0 ? largest / 127.0 : 1.0;
    double length = 0, lost = 0;
    int32_t sum = 0;
    for (Py_ssize_t j = 0; j < table->dim; j++) {
        const double value = query->exact[j], w = nearbyint(value / unit), rest = value - unit * w;
        ((int8_t *)query->words)[j] = (int8_t)w;
        sum += (int32_t)w;
        length += value * value;
        lost += rest * rest;
    }
    query->start = -128 * sum;
    query->length = sqrt(length);
    query->per_error = (float)(query->length / unit) * (1 + 2 * ROUNDING);
    query->per_size = (float)((sqrt(lost) + 2 * ROUNDING * query->length) / unit) * (1 + 2 * ROUNDING);
    return 1;
}

/* A place without a query: nothing reaches it. */
static const Query NOBODY = {.unit = 1};

static void fill_group(Group *group, const Query *queries, Py_ssize_t words) {
    for (int q = 0; q < GROUP; q++) {
        group->start[q] = queries[q].start;
        group->per_error[q] = queries[q].per_error;
        group->per_size[q] = queries[q].per_size;
        for (Py_ssize_t g = 0; g < words; g++) group->words[g * GROUP + q] = queries[q].words[g];
    }
}

/* -- the Python door ------------------------------------------------------------------------------------- */

static void release_views(Py_buffer *views) {
    for (int i = 0; i < VIEWS; i++) PyBuffer_Release(views + i);
}

static void close_table(PyObject *capsule) {
    Table *table = PyCapsule_GetPointer(capsule, TABLE);
    if (!table) return;
    release_views(table->views);
    close_rows(&table->rows);
    free(table);
}

static PyObject *open_table(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (!enough_arguments(count, count == 12 ? 12 : 9, "open")) return NULL;
    const Py_ssize_t items = PyLong_AsSsize_t(args[7]), dim = PyLong_AsSsize_t(args[8]);
    const Py_ssize_t slots = PyErr_Occurred() ? -1 : PyObject_Length(args[5]);
    if (PyErr_Occurred()) return NULL;
    if (items < 0 || items > INT32_MAX || dim < 1 || dim > MOST_DIM || slots % BLOCK) {
        PyErr_SetString(PyExc_ValueError, "a table has 1 to 1024 dimensions and slots in multiples of 32");
        return NULL;
    }
    const Py_ssize_t blocks = slots / BLOCK, words = (dim + 7) / 8 * 2;
    const struct { Py_ssize_t size, count; const char *name; } wanted[VIEWS] = {
        {1, slots * words * 4, "lines"}, {4, slots, "scale"},  {4, blocks, "error"},      {4, blocks, "size"},
        {4, blocks, "norm"},             {4, slots, "number"},
    };
    Table *table = calloc(1, sizeof(Table));
    if (!table) return PyErr_NoMemory();
    for (int i = 0; i < VIEWS; i++)
        if (numbers(args[i], table->views + i, wanted[i].size, wanted[i].count, 0, wanted[i].name) < 0) goto fail;
    table->lines = table->views[0].buf, table->scale = table->views[1].buf, table->error = table->views[2].buf;
    table->size = table->views[3].buf, table->norm = table->views[4].buf, table->number = table->views[5].buf;
    table->blocks = blocks, table->words = words, table->dim = dim, table->items = items;
    for (Py_ssize_t slot = 0; slot < slots; slot++)
        if (table->number[slot] < -1 || table->number[slot] >= items) {
            PyErr_SetString(PyExc_ValueError, "a slot names an item that does not exist");
            goto fail;
        }
    if (open_rows(&table->rows, args[6], count == 12 ? args + 9 : NULL, dim) < 0) goto fail;
    if (table->rows.count != items) PyErr_SetString(PyExc_ValueError, "there must be a row for each item");
    PyObject *capsule = PyErr_Occurred() ? NULL : PyCapsule_New(table, TABLE, close_table);
    if (capsule) return capsule;
    close_rows(&table->rows);
fail:
    release_views(table->views);
    free(table);
    return NULL;
}

typedef struct {
    Py_buffer queries, excluded, items, scores;
} Arguments;

/* Everything is checked; what is left can only fail for want of memory. Returns the rescored items, or -1. */
static long long search_all(const Table *table, int level, const Arguments *given, Py_ssize_t count, Py_ssize_t k) {
    const Py_ssize_t words = table->words, groups = (count + GROUP - 1) / GROUP;
    const Py_ssize_t places = count == 1 ? 1 : groups * GROUP;
    Query *queries = calloc((size_t)places, sizeof(Query));
    Best *bests = calloc((size_t)places, sizeof(Best));
    Group *group = calloc((size_t)groups, sizeof(Group));
    double *exacts = malloc((size_t)(count * table->dim) * sizeof(double));
    int32_t *word = calloc((size_t)((places + groups * GROUP) * words), sizeof(int32_t));
    float full = FLT_MAX;
    long long rescored = -1;
    if (!queries || !bests || !group || !exacts || !word) goto done;
    const Py_ssize_t stride = given->excluded.len == table->items ? 0 : table->items;
    for (Py_ssize_t q = 0; q < places; q++) {
        queries[q] = NOBODY;
        queries[q].words = word + q * words;
        bests[q] = (Best){.score = &full, .count = 1, .k = 1, .root = INFINITY};
        if (q >= count) continue;
        queries[q].vector = (const float *)given->queries.buf + q * table->dim;
        queries[q].exact = exacts + q * table->dim;
        const int answered = quantise(queries + q, table);
        bests[q] = (Best){.score = (float *)given->scores.buf + q * k, .item = (int32_t *)given->items.buf + q * k,
                          .k = k, .root = answered ? -INFINITY : INFINITY};
        if (given->excluded.obj) bests[q].excluded = (const uint8_t *)given->excluded.buf + q * stride;
    }
    for (Py_ssize_t g = 0; g < groups && count > 1; g++) {
        group[g].words = word + (places + g * GROUP) * words;
        fill_group(group + g, queries + g * GROUP, words);
    }
    if (count == 1)
        search_one(table, queries, bests, LOOPS + level);
    else
        search_many(table, queries, bests, group, groups, LOOPS + level);
    rescored = 0;
    for (Py_ssize_t q = 0; q < count; q++) {
        sort_best(bests + q);
        rescored += bests[q].rescored;
    }
done:
    free(queries), free(bests), free(group), free(exacts), free(word);
    return rescored;
}

static const double WORTH_UNLOCKING = 2e6; /* bytes of table times queries: about 30 microseconds */

static PyObject *search(PyObject *module, PyObject *const *args, Py_ssize_t argument_count) {
    (void)module;
    if (!enough_arguments(argument_count, 8, "search")) return NULL;
    Table *table = PyCapsule_GetPointer(args[0], TABLE);
    const int level = table ? level_of(args[1]) : -1;
    if (level < 0) return NULL;
    const Py_ssize_t count = PyLong_AsSsize_t(args[3]), k = PyLong_AsSsize_t(args[4]);
    if (PyErr_Occurred()) return NULL;
    if (count < 1 || k < 1 || count > INT32_MAX || k > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a search needs at least one query and one place");
        return NULL;
    }
    Arguments given = {0};
    PyObject *answer = NULL;
    if (numbers(args[2], &given.queries, 4, count * table->dim, 0, "queries") < 0) goto done;
    if (args[5] != Py_None) {
        if (PyObject_GetBuffer(args[5], &given.excluded, PyBUF_SIMPLE) < 0) goto done;
        if (given.excluded.len != table->items && given.excluded.len != count * table->items) {
            PyErr_SetString(PyExc_ValueError, "excluded must hold a byte for each item, or for each query and item");
            goto done;
        }
    }
    if (numbers(args[6], &given.items, 4, count * k, 1, "items") < 0) goto done;
    if (numbers(args[7], &given.scores, 4, count * k, 1, "scores") < 0) goto done;
    const double work = (double)table->blocks * (double)table->words * 4 * BLOCK * (double)count;
    PyThreadState *state = work > WORTH_UNLOCKING ? PyEval_SaveThread() : NULL;
    const long long rescored = search_all(table, level, &given, count, k);
    if (state) PyEval_RestoreThread(state);
    answer = rescored < 0 ? PyErr_NoMemory() : PyLong_FromLongLong(rescored);
done:
    PyBuffer_Release(&given.queries), PyBuffer_Release(&given.excluded);
    PyBuffer_Release(&given.items), PyBuffer_Release(&given.scores);
    return answer;
}

static PyMethodDef METHODS[] = {
    {"levels", levels, METH_NOARGS, "levels() -> the instruction sets that can be used, best last"},
    {"open", (PyCFunction)(void (*)(void))open_table, METH_FASTCALL,
     "open(lines, scale, error, size, norm, number, rows, items, dim[, form, scale, factor of the rows]) -> table"},
    {"search", (PyCFunction)(void (*)(void))search, METH_FASTCALL,
     "search(table, level, queries, Q, K, excluded or None, items, scores) -> items rescored; fills the last two"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_scan", "Exact best K by an int8 scan.", 0, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__scan(void) { return PyModule_Create(&MODULE); }
