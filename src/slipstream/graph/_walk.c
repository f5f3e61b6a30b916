/* Walks of two and three hops from weighted starts: their sums at all items, and the best of them to a few.
 *
 * A graph here is a few legs: one hop straight from a start to an item, or (at most one leg) one to an entity and
 * one on to an item. The rows of a leg are what one can start from. models/path_reasoning/frontier.py, search.py
 * and groups.py do the same in NumPy and say what is right; sums differ from theirs by rounding alone.
 *
 * One person: a push along the edges of the starts, then for each item the sum over its entities. Many: LANES of
 * them side by side, so that the edges from entities to items are read once for all. A search lays nothing out but
 * the walks that come to an entity of a wanted item.
 */
#include "kernels.h"

#include <math.h>

enum { LANES = 8, PARTS_STRAIGHT = 4, PARTS_OVER = 9, MOST_LEGS = 1000 };
static const double ROUNDING = 1e-12; /* _ROUNDING of legs.py */
static const char GRAPH[] = "slipstream.graph._walk.graph";
typedef double Lanes __attribute__((vector_size(8 * LANES), aligned(8), may_alias));

typedef struct { /* a compressed sparse row matrix */
    Py_ssize_t rows, columns;
    const int64_t *offset; /* [rows + 1] */
    const int32_t *column;
    const double *gamma;
} Hops;

typedef struct {
    Hops out;             /* from starts to items, or to entities */
    Hops into;            /* of each item, its entities */
    const int64_t *kind;  /* [entities] */
    const double *tells;  /* [starts], or [entities]: what groups.py calls so */
    const double *around; /* [items] walks from an item over an entity back to it */
} Leg;

typedef struct {
    Py_ssize_t items, entities, leg_count, view_count;
    Leg *legs, *over; /* over: the one over entities, or NULL */
    Py_buffer *views;
    /* For one call at a time, under the interpreter's lock; as here between calls: */
    int32_t *place;   /* [items] -1 */
    int32_t *slot;    /* [entities] -1 */
    double *arrived;  /* [entities] 0 */
    double *value;    /* [items] */
} Graph;

typedef struct { /* of all people one after the other */
    Py_ssize_t count;
    const int64_t *offset; /* [people + 1] */
    const int64_t *node;   /* [count] rows of the leg */
    const double *weight;  /* [count] */
    Py_buffer views[3];
} Starts;

#include "_walk_search.h"
#include "_walk_sums.h"

/* -- the Python door ------------------------------------------------------------------------------------- */

static void free_graph(Graph *graph) {
    for (Py_ssize_t v = 0; v < graph->view_count; v++) PyBuffer_Release(graph->views + v);
    free(graph->views), free(graph->legs), free(graph->place), free(graph->slot);
    free(graph->arrived), free(graph->value), free(graph);
}

static void close_graph(PyObject *capsule) {
    Graph *graph = PyCapsule_GetPointer(capsule, GRAPH);
    if (graph) free_graph(graph);
}

/* The next buffer of a leg, of `count` numbers (-1: as many as there are); NULL with an exception. */
static const void *part_of(Graph *graph, PyObject *leg, Py_ssize_t at, Py_ssize_t size, Py_ssize_t count, const char *name) {
    PyObject *object = PyTuple_GetItem(leg, at);
    if (!object || (count < 0 && (count = PyObject_Length(object)) < 0)) return NULL;
    if (numbers(object, graph->views + graph->view_count, size, count, 0, name) < 0) return NULL;
    return graph->views[graph->view_count++].buf;
}

/* A matrix of three buffers from `at` on. rows: -1: whatever there is. 0 with an exception where it is none. */
static int take_hops(Graph *graph, PyObject *leg, Py_ssize_t at, Py_ssize_t rows, Py_ssize_t columns, Hops *hops) {
    PyObject *offsets = PyTuple_GetItem(leg, at), *cells = PyTuple_GetItem(leg, at + 1);
    const Py_ssize_t ends = offsets ? PyObject_Length(offsets) : -1, count = cells ? PyObject_Length(cells) : -1;
    if (ends < 0 || count < 0) return 0;
    hops->rows = rows < 0 ? ends - 1 : rows, hops->columns = columns;
    if (!(hops->offset = part_of(graph, leg, at, 8, hops->rows + 1, "offsets"))) return 0;
    if (!(hops->column = part_of(graph, leg, at + 1, 4, count, "columns"))) return 0;
    if (!(hops->gamma = part_of(graph, leg, at + 2, 8, count, "gammas"))) return 0;
    int good = hops->rows >= 0 && hops->offset[0] == 0 && hops->offset[hops->rows] == count;
    for (Py_ssize_t row = 0; good && row < hops->rows; row++) good = hops->offset[row] <= hops->offset[row + 1];
    for (Py_ssize_t cell = 0; good && cell < count; cell++)
        good = hops->column[cell] >= 0 && hops->column[cell] < columns;
    if (!good) PyErr_SetString(PyExc_ValueError, "a leg is no sparse matrix of its shape");
    return good;
}

static int take_leg(Graph *graph, PyObject *parts, Leg *leg) {
    const Py_ssize_t count = PyTuple_Size(parts);
    if (count == PARTS_STRAIGHT)
        return take_hops(graph, parts, 0, -1, graph->items, &leg->out) &&
               (leg->tells = part_of(graph, parts, 3, 8, leg->out.rows, "tells"));
    if (count == PARTS_OVER && !graph->over) {
        graph->over = leg;
        return take_hops(graph, parts, 0, graph->items, graph->entities, &leg->out) &&
               take_hops(graph, parts, 3, graph->items, graph->entities, &leg->into) &&
               (leg->kind = part_of(graph, parts, 6, 8, graph->entities, "kinds")) &&
               (leg->tells = part_of(graph, parts, 7, 8, graph->entities, "tells")) &&
               (leg->around = part_of(graph, parts, 8, 8, graph->items, "around"));
    }
    if (count >= 0) PyErr_SetString(PyExc_ValueError, "legs have 4 parts, and at most one has 9");
    return 0;
}

static PyObject *open_graph(PyObject *module, PyObject *const *args, Py_ssize_t argument_count) {
    (void)module;
    if (!enough_arguments(argument_count, 3, "open")) return NULL;
    const Py_ssize_t items = PyLong_AsSsize_t(args[0]), entities = PyErr_Occurred() ? -1 : PyLong_AsSsize_t(args[1]);
    const Py_ssize_t legs = PyErr_Occurred() ? -1 : PyTuple_Size(args[2]);
    if (PyErr_Occurred()) return NULL;
    if (items < 0 || entities < 0 || items >= INT32_MAX || entities >= INT32_MAX || legs > MOST_LEGS) {
        PyErr_SetString(PyExc_ValueError, "a graph has up to 1000 legs and fewer than 2^31 items and entities");
        return NULL;
    }
    Graph *graph = calloc(1, sizeof(Graph));
    if (!graph) return PyErr_NoMemory();
    graph->items = items, graph->entities = entities, graph->leg_count = legs;
    graph->legs = calloc((size_t)legs + 1, sizeof(Leg));
    graph->views = calloc((size_t)legs * PARTS_OVER + 1, sizeof(Py_buffer));
    graph->place = malloc(((size_t)items + 1) * sizeof(int32_t));
    graph->slot = malloc(((size_t)entities + 1) * sizeof(int32_t));
    graph->arrived = calloc((size_t)entities + 1, sizeof(double));
    graph->value = calloc((size_t)items + 1, sizeof(double));
    PyObject *capsule = NULL;
    if (!graph->legs || !graph->views || !graph->place || !graph->slot || !graph->arrived || !graph->value) {
        PyErr_NoMemory();
        goto done;
    }
    memset(graph->place, -1, (size_t)items * sizeof(int32_t));
    memset(graph->slot, -1, (size_t)entities * sizeof(int32_t));
    for (Py_ssize_t n = 0; n < legs; n++)
        if (!take_leg(graph, PyTuple_GetItem(args[2], n), graph->legs + n)) goto done;
    capsule = PyCapsule_New(graph, GRAPH, close_graph);
done:
    if (!capsule) free_graph(graph);
    return capsule;
}

static void release_starts(const Graph *graph, Starts *starts) {
    for (Py_ssize_t n = 0; starts && n < graph->leg_count; n++)
        for (int v = 0; v < 3; v++) PyBuffer_Release(starts[n].views + v);
    free(starts);
}

static int take_starts(PyObject *parts, const Leg *leg, Py_ssize_t people, Starts *starts) {
    PyObject *part[3] = {0};
    for (int v = 0; v < 3; v++)
        if (!(part[v] = PyTuple_GetItem(parts, v))) return 0;
    const Py_ssize_t count = PyObject_Length(part[1]);
    if (count < 0 || numbers(part[0], starts->views, 8, people + 1, 0, "offsets") < 0 ||
        numbers(part[1], starts->views + 1, 8, count, 0, "starts") < 0 ||
        numbers(part[2], starts->views + 2, 8, count, 0, "weights") < 0)
        return 0;
    starts->count = count, starts->offset = starts->views[0].buf;
    starts->node = starts->views[1].buf, starts->weight = starts->views[2].buf;
    int good = starts->offset[0] == 0 && starts->offset[people] == count && count < INT32_MAX;
    for (Py_ssize_t p = 0; good && p < people; p++) good = starts->offset[p] <= starts->offset[p + 1];
    for (Py_ssize_t s = 0; good && s < count; s++) good = starts->node[s] >= 0 && starts->node[s] < leg->out.rows;
    if (!good) PyErr_SetString(PyExc_ValueError, "starts must be rows of their leg");
    return good;
}

/* (offsets, starts, weights) of each leg; NULL with an exception. */
static Starts *starts_of(PyObject *given, const Graph *graph, Py_ssize_t people) {
    Starts *starts = calloc((size_t)graph->leg_count + 1, sizeof(Starts));
    if (!starts) return (Starts *)PyErr_NoMemory();
    int good = PyTuple_Size(given) == graph->leg_count;
    if (!good && !PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "every leg needs its starts");
    for (Py_ssize_t n = 0; good && n < graph->leg_count; n++)
        good = take_starts(PyTuple_GetItem(given, n), graph->legs + n, people, starts + n);
    if (good) return starts;
    release_starts(graph, starts);
    return NULL;
}

static PyObject *sums(PyObject *module, PyObject *const *args, Py_ssize_t argument_count) {
    (void)module;
    if (!enough_arguments(argument_count, 3, "sums")) return NULL;
    Graph *graph = PyCapsule_GetPointer(args[0], GRAPH);
    Starts *starts = graph ? starts_of(args[1], graph, 1) : NULL;
    Py_buffer total = {0};
    PyObject *answer = NULL;
    if (starts && numbers(args[2], &total, 8, graph->items, 1, "sums") == 0) {
        sum_one(graph, starts, total.buf);
        answer = Py_None;
    }
    PyBuffer_Release(&total);
    if (starts) release_starts(graph, starts);
    Py_XINCREF(answer);
    return answer;
}

static PyObject *scores(PyObject *module, PyObject *const *args, Py_ssize_t argument_count) {
    (void)module;
    if (!enough_arguments(argument_count, 5, "scores")) return NULL;
    Graph *graph = PyCapsule_GetPointer(args[0], GRAPH);
    const int level = graph ? level_of(args[1]) : -1;
    if (level < 0) return NULL;
    const Py_ssize_t people = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred()) return NULL;
    if (people < 0 || people >= INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "the number of people must be 0 or more");
        return NULL;
    }
    Starts *starts = starts_of(args[3], graph, people);
    Py_buffer out = {0};
    int done = -1;
    if (starts && numbers(args[4], &out, 4, people * graph->items, 1, "scores") == 0) {
        PyThreadState *state = PyEval_SaveThread();
        done = score_many(graph, level, starts, people, out.buf);
        PyEval_RestoreThread(state);
    }
    PyBuffer_Release(&out);
    if (starts) release_starts(graph, starts);
    if (done == 0) return PyErr_NoMemory();
    if (done < 0) return NULL;
    Py_INCREF(Py_None);
    return Py_None;
}

static int check_items(const Search *search) {
    int good = 1;
    for (Py_ssize_t t = 0; good && t < search->count; t++)
        good = search->item[t] >= 0 && search->item[t] < search->graph->items && (!t || search->item[t - 1] < search->item[t]);
    if (!good) PyErr_SetString(PyExc_ValueError, "items must be numbers of items, ascending");
    return good;
}

/* (paths, totals of the items) for single paths; (paths, groups) with named_from and most. */
static PyObject *search_for(PyObject *const *args, int grouped) {
    Search search = {.graph = PyCapsule_GetPointer(args[0], GRAPH)};
    if (!search.graph) return NULL;
    const Py_ssize_t limit = PyLong_AsSsize_t(args[3]), most = grouped && !PyErr_Occurred() ? PyLong_AsSsize_t(args[5]) : 1;
    const double named_from = grouped && !PyErr_Occurred() ? PyFloat_AsDouble(args[4]) : 0;
    search.count = PyErr_Occurred() ? -1 : PyObject_Length(args[2]);
    if (PyErr_Occurred()) return NULL;
    if (limit < 1 || most < 1 || search.count >= INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a search needs room for at least one path");
        return NULL;
    }
    Py_buffer items = {0};
    PyObject *answer = NULL, *paths = NULL, *rest = NULL;
    void *table = NULL;
    Starts *starts = starts_of(args[1], search.graph, 1);
    search.starts = starts;
    if (!starts || numbers(args[2], &items, 8, search.count, 0, "items") < 0) goto done;
    search.item = items.buf;
    if (!check_items(&search)) goto done;
    Py_ssize_t rows = search.count, size = grouped ? sizeof(Shown) : sizeof(double);
    int good = meet(&search);
    if (good && grouped) {
        table = malloc((size_t)(search.count * search.graph->leg_count + search.pair_count + 1) * sizeof(Shown));
        good = table && (rows = floors_for_groups(&search, limit, named_from, table)) >= 0 && spell_out(&search);
        if (good) cut(&search, table, most);
    } else if (good) {
        table = malloc((size_t)(search.count + 1) * sizeof(double));
        for (Py_ssize_t t = 0; table && t < search.count; t++) ((double *)table)[t] = whole_of(&search, t);
        good = table && floors_for_paths(&search, limit) && spell_out(&search);
    }
    if (!good) {
        PyErr_NoMemory();
        goto done;
    }
    paths = PyBytes_FromStringAndSize((const char *)search.found.at, search.found.count * (Py_ssize_t)sizeof(Path));
    rest = PyBytes_FromStringAndSize(table, rows * size);
    if (paths && rest) answer = PyTuple_Pack(2, paths, rest);
done:
    Py_XDECREF(paths), Py_XDECREF(rest);
    PyBuffer_Release(&items);
    if (starts) release_starts(search.graph, starts);
    close_search(&search);
    free(table);
    return answer;
}

static PyObject *paths(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    return enough_arguments(count, 4, "paths") ? search_for(args, 0) : NULL;
}

static PyObject *groups(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    return enough_arguments(count, 6, "groups") ? search_for(args, 1) : NULL;
}

static PyMethodDef METHODS[] = {
    {"levels", levels, METH_NOARGS, "levels() -> the instruction sets that can be used, best last"},
    {"open", (PyCFunction)(void (*)(void))open_graph, METH_FASTCALL, "open(items, entities, legs) -> graph"},
    {"sums", (PyCFunction)(void (*)(void))sums, METH_FASTCALL, "sums(graph, starts, out [items] float64)"},
    {"scores", (PyCFunction)(void (*)(void))scores, METH_FASTCALL,
     "scores(graph, level, people, starts, out [people, items] float32)"},
    {"paths", (PyCFunction)(void (*)(void))paths, METH_FASTCALL, "paths(graph, starts, items, limit) -> paths, totals"},
    {"groups", (PyCFunction)(void (*)(void))groups, METH_FASTCALL,
     "groups(graph, starts, items, limit, named_from, most) -> paths, groups"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_walk", "Sums and searches over walks.", 0, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__walk(void) { return PyModule_Create(&MODULE); }
