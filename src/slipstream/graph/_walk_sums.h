/* Sums over all walks: of one person at every item, or the scores of many people. */

#define NAME(x) x##_portable
#include "_walk_loop.h"
#if HAS_X86
KERNELS_FOR(AVX2_FEATURES)
#define NAME(x) x##_avx2
#include "_walk_loop.h"
KERNELS_END
KERNELS_FOR(AVX512_FEATURES)
#define NAME(x) x##_avx512
#include "_walk_loop.h"
KERNELS_END
#endif

static void (*const GATHER[LEVELS])(const Hops *, const double *, double *) = {
    gather_portable,
#if HAS_X86
    gather_avx2, gather_avx512,
#endif
};

/* value[column * stride] += weight * gamma over the rows of one person's starts. */
static void push(const Hops *out, const Starts *starts, Py_ssize_t person, double *value, Py_ssize_t stride) {
    for (int64_t s = starts->offset[person]; s < starts->offset[person + 1]; s++) {
        const int64_t end = out->offset[starts->node[s] + 1];
        for (int64_t cell = out->offset[starts->node[s]]; cell < end; cell++)
            value[out->column[cell] * stride] += starts->weight[s] * out->gamma[cell];
    }
}

/* Item - entity - the same item is no path: off with it. */
static void take_back(const Leg *leg, const Starts *starts, Py_ssize_t person, double *value, Py_ssize_t stride) {
    for (int64_t s = starts->offset[person]; s < starts->offset[person + 1]; s++)
        value[starts->node[s] * stride] -= starts->weight[s] * leg->around[starts->node[s]];
}

static void sum_one(const Graph *graph, const Starts *starts, double *total) {
    memset(total, 0, (size_t)graph->items * sizeof(double));
    for (Py_ssize_t n = 0; n < graph->leg_count; n++) {
        const Leg *leg = graph->legs + n;
        if (leg != graph->over) {
            push(&leg->out, starts + n, 0, total, 1);
            continue;
        }
        push(&leg->out, starts + n, 0, graph->arrived, 1);
        for (Py_ssize_t item = 0; item < graph->items; item++) {
            double sums[4] = {0}; /* four, so that none waits for the one before */
            int64_t cell = leg->into.offset[item];
            const int64_t end = leg->into.offset[item + 1];
            for (; cell + 4 <= end; cell += 4)
                for (int i = 0; i < 4; i++)
                    sums[i] += leg->into.gamma[cell + i] * graph->arrived[leg->into.column[cell + i]];
            for (; cell < end; cell++) sums[0] += leg->into.gamma[cell] * graph->arrived[leg->into.column[cell]];
            graph->value[item] = sums[0] + sums[1] + (sums[2] + sums[3]);
        }
        take_back(leg, starts + n, 0, graph->value, 1);
        for (Py_ssize_t item = 0; item < graph->items; item++)
            if (graph->value[item] >= ROUNDING) total[item] += graph->value[item];
        memset(graph->arrived, 0, (size_t)graph->entities * sizeof(double));
    }
}

/* Room for LANES numbers each of `count`, on a boundary of a cache line; *base is what to free. */
static double *lanes_of(Py_ssize_t count, void **base) {
    *base = malloc(((size_t)count * LANES + 8) * sizeof(double));
    return *base ? (double *)(((uintptr_t)*base + 63) & ~(uintptr_t)63) : NULL;
}

/* [people][items] float32, NaN where no path leads. 0 for want of memory. Holds no lock. */
static int score_many(const Graph *graph, int level, const Starts *starts, Py_ssize_t people, float *scores) {
    void *bases[2] = {NULL, NULL};
    double *arrived = lanes_of(graph->entities, bases), *value = lanes_of(graph->items, bases + 1);
    double *total = malloc(((size_t)graph->items + 1) * LANES * sizeof(double));
    const int done = arrived && value && total;
    for (Py_ssize_t first = 0; done && first < people; first += LANES) {
        const Py_ssize_t lanes = people - first < LANES ? people - first : LANES;
        memset(total, 0, (size_t)graph->items * LANES * sizeof(double));
        for (Py_ssize_t n = 0; n < graph->leg_count; n++) {
            const Leg *leg = graph->legs + n;
            if (leg != graph->over) {
                for (Py_ssize_t l = 0; l < lanes; l++) push(&leg->out, starts + n, first + l, total + l * graph->items, 1);
                continue;
            }
            memset(arrived, 0, (size_t)graph->entities * LANES * sizeof(double));
            for (Py_ssize_t l = 0; l < lanes; l++) push(&leg->out, starts + n, first + l, arrived + l, LANES);
            GATHER[level](&leg->into, arrived, value);
            for (Py_ssize_t l = 0; l < lanes; l++) {
                take_back(leg, starts + n, first + l, value + l, LANES);
                for (Py_ssize_t item = 0; item < graph->items; item++)
                    if (value[item * LANES + l] >= ROUNDING) total[l * graph->items + item] += value[item * LANES + l];
            }
        }
        for (Py_ssize_t cell = 0; cell < lanes * graph->items; cell++)
            scores[first * graph->items + cell] = total[cell] > 0 ? (float)total[cell] : NAN;
    }
    free(bases[0]), free(bases[1]), free(total);
    return done;
}
