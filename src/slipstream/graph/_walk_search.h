/* The best paths, or groups of paths, of one person to some items: search.py and groups.py in C.
 *
 * Both first meet in the middle, then set a floor for each straight leg into an item and for each pair of an item
 * and an entity, and then spell out what reaches its floor.
 */

typedef struct { /* what Python reads; `group` is the item's place where single paths are asked for */
    int64_t group, leg, start, facet, kind;
    double first, second, third, score;
} Path;

typedef struct { /* what Python reads */
    int64_t place, paths;
    double share, whole;
} Shown;

typedef struct { Path *at; Py_ssize_t count, room; } Paths;

typedef struct { /* a walk to an entity that some wanted item has */
    int32_t slot, row;
    double gamma, score;
} Hit;

typedef struct { Hit *at; Py_ssize_t count, room; } Hits;

typedef struct { /* an item and an entity; next: the next pair of this entity, -1: none */
    int32_t place, facet, slot, next;
    int64_t group;
    double back, best, total, floor;
} Pair;

typedef struct { /* an item and a leg straight to it */
    int64_t group;
    double total, says, best, floor;
} Direct;

typedef struct { /* to be chosen from. direct, pair: one of them, the other NULL */
    int64_t kind, leg, facet;
    int follows; /* 0: the one of its kind that says most */
    double says, total;
    Direct *direct;
    Pair *pair;
} Choice;

typedef struct {
    const Graph *graph;
    const Starts *starts;
    const int64_t *item;
    Py_ssize_t count, pair_count, slot_count;
    Py_ssize_t *pair_begin;  /* [count + 1] */
    Pair *pairs;
    Direct *direct;          /* [count][legs] */
    int32_t *head;           /* [slots] the first pair of an entity */
    double *arrived, *peak;  /* [slots] */
    Paths straight, found;
    Hits hits;
} Search;

/* Room for one more of `size` bytes; 0 for want of memory. */
static int roomy(void **at, Py_ssize_t count, Py_ssize_t *room, size_t size) {
    if (count < *room) return 1;
    const Py_ssize_t wanted = *room ? 2 * *room : 256;
    void *more = realloc(*at, (size_t)wanted * size);
    if (!more) return 0;
    *at = more, *room = wanted;
    return 1;
}

static int add_path(Paths *paths, Path path) {
    if (!roomy((void **)&paths->at, paths->count, &paths->room, sizeof(Path))) return 0;
    paths->at[paths->count++] = path;
    return 1;
}

/* -- the middle ------------------------------------------------------------------------------------------ */

static int walk_straight(Search *search, Py_ssize_t number) {
    const Leg *leg = search->graph->legs + number;
    const Starts *starts = search->starts + number;
    for (Py_ssize_t row = 0; row < starts->count; row++) {
        const int64_t start = starts->node[row];
        for (int64_t cell = leg->out.offset[start]; cell < leg->out.offset[start + 1]; cell++) {
            const int32_t place = search->graph->place[leg->out.column[cell]];
            const double score = place < 0 ? 0 : starts->weight[row] * leg->out.gamma[cell];
            if (!(score > 0)) continue;
            Direct *direct = search->direct + place * search->graph->leg_count + number;
            direct->total += score;
            direct->says += score * leg->tells[start];
            if (score > direct->best) direct->best = score;
            const Path path = {place, number, start, -1, 0, starts->weight[row], leg->out.gamma[cell], 1, score};
            if (!add_path(&search->straight, path)) return 0;
        }
    }
    return 1;
}

/* The pairs of the wanted items, and a slot for each entity among them. */
static int pair_up(Search *search) {
    const Leg *leg = search->graph->over;
    Py_ssize_t pairs = 0;
    for (Py_ssize_t t = 0; leg && t < search->count; t++)
        pairs += leg->into.offset[search->item[t] + 1] - leg->into.offset[search->item[t]];
    if (pairs > INT32_MAX) return 0;
    search->pair_begin = calloc((size_t)search->count + 1, sizeof(Py_ssize_t));
    search->pairs = calloc((size_t)pairs + 1, sizeof(Pair));
    search->head = calloc((size_t)pairs + 1, sizeof(int32_t));
    search->arrived = calloc((size_t)pairs + 1, sizeof(double));
    search->peak = calloc((size_t)pairs + 1, sizeof(double));
    if (!search->pair_begin || !search->pairs || !search->head || !search->arrived || !search->peak) return 0;
    for (Py_ssize_t t = 0; leg && t < search->count; t++) {
        for (int64_t cell = leg->into.offset[search->item[t]]; cell < leg->into.offset[search->item[t] + 1]; cell++) {
            const int32_t facet = leg->into.column[cell];
            int32_t *slot = search->graph->slot + facet;
            if (*slot < 0) search->head[*slot = (int32_t)search->slot_count++] = -1;
            search->pairs[search->pair_count] =
                (Pair){.place = (int32_t)t, .facet = facet, .slot = *slot, .next = search->head[*slot],
                       .back = leg->into.gamma[cell], .floor = INFINITY};
            search->head[*slot] = (int32_t)search->pair_count++;
        }
        search->pair_begin[t + 1] = search->pair_count;
    }
    return 1;
}

static int walk_over(Search *search) {
    const Leg *leg = search->graph->over;
    if (!leg) return 1;
    const Starts *starts = search->starts + (leg - search->graph->legs);
    for (Py_ssize_t row = 0; row < starts->count; row++) {
        const int64_t start = starts->node[row];
        for (int64_t cell = leg->out.offset[start]; cell < leg->out.offset[start + 1]; cell++) {
            const int32_t slot = search->graph->slot[leg->out.column[cell]];
            if (slot < 0) continue;
            const double score = starts->weight[row] * leg->out.gamma[cell];
            if (!roomy((void **)&search->hits.at, search->hits.count, &search->hits.room, sizeof(Hit))) return 0;
            search->hits.at[search->hits.count++] = (Hit){slot, (int32_t)row, leg->out.gamma[cell], score};
            search->arrived[slot] += score;
            if (score > search->peak[slot]) search->peak[slot] = score;
        }
    }
    for (Py_ssize_t p = 0; p < search->pair_count; p++) {
        Pair *pair = search->pairs + p;
        pair->best = search->peak[pair->slot] * pair->back;
        pair->total = search->arrived[pair->slot] * pair->back;
    }
    return 1;
}

static int meet(Search *search) {
    const Graph *graph = search->graph;
    search->direct = calloc((size_t)(search->count * graph->leg_count) + 1, sizeof(Direct));
    if (!search->direct) return 0;
    for (Py_ssize_t d = 0; d < search->count * graph->leg_count; d++) search->direct[d].floor = INFINITY;
    for (Py_ssize_t t = 0; t < search->count; t++) graph->place[search->item[t]] = (int32_t)t;
    int done = 1;
    for (Py_ssize_t n = 0; done && n < graph->leg_count; n++)
        if (graph->legs + n != graph->over) done = walk_straight(search, n);
    done = done && pair_up(search) && walk_over(search);
    for (Py_ssize_t t = 0; t < search->count; t++) graph->place[search->item[t]] = -1;
    for (Py_ssize_t p = 0; p < search->pair_count; p++) graph->slot[search->pairs[p].facet] = -1;
    return done;
}

static double whole_of(const Search *search, Py_ssize_t place) {
    const Py_ssize_t legs = search->graph->leg_count;
    double whole = 0;
    for (Py_ssize_t n = 0; n < legs; n++) whole += search->direct[place * legs + n].total;
    for (Py_ssize_t p = search->pair_begin[place]; p < search->pair_begin[place + 1]; p++)
        whole += search->pairs[p].total;
    return whole;
}

/* -- floors for single paths ----------------------------------------------------------------------------- */

static void sift_down(double *heap, Py_ssize_t count, Py_ssize_t place) {
    const double value = heap[place];
    for (Py_ssize_t child; (child = 2 * place + 1) < count; place = child) {
        if (child + 1 < count && heap[child + 1] < heap[child]) child++;
        if (!(heap[child] < value)) break;
        heap[place] = heap[child];
    }
    heap[place] = value;
}

/* The limit-th largest of the values, 0 where there are fewer. Moves them. */
static double nth_largest(double *values, Py_ssize_t count, Py_ssize_t limit) {
    if (count < limit) return 0;
    for (Py_ssize_t place = limit / 2; place-- > 0;) sift_down(values, limit, place);
    for (Py_ssize_t rest = limit; rest < count; rest++)
        if (values[rest] > values[0]) {
            values[0] = values[rest];
            sift_down(values, limit, 0);
        }
    return values[0];
}

static int floors_for_paths(Search *search, Py_ssize_t limit) {
    const Py_ssize_t legs = search->graph->leg_count;
    Py_ssize_t *begin = calloc((size_t)search->count + 2, sizeof(Py_ssize_t));
    double *values = malloc((size_t)(search->straight.count + search->pair_count + 1) * sizeof(double));
    if (begin && values) {
        for (Py_ssize_t p = 0; p < search->straight.count; p++) begin[search->straight.at[p].group + 2]++;
        for (Py_ssize_t p = 0; p < search->pair_count; p++) begin[search->pairs[p].place + 2] += search->pairs[p].best > 0;
        for (Py_ssize_t t = 0; t < search->count; t++) begin[t + 2] += begin[t + 1];
        for (Py_ssize_t p = 0; p < search->straight.count; p++)
            values[begin[search->straight.at[p].group + 1]++] = search->straight.at[p].score;
        for (Py_ssize_t p = 0; p < search->pair_count; p++)
            if (search->pairs[p].best > 0) values[begin[search->pairs[p].place + 1]++] = search->pairs[p].best;
        for (Py_ssize_t t = 0; t < search->count; t++) {
            const double floor = nth_largest(values + begin[t], begin[t + 1] - begin[t], limit);
            for (Py_ssize_t n = 0; n < legs; n++) {
                search->direct[t * legs + n].floor = floor;
                search->direct[t * legs + n].group = t;
            }
            for (Py_ssize_t p = search->pair_begin[t]; p < search->pair_begin[t + 1]; p++) {
                search->pairs[p].floor = floor;
                search->pairs[p].group = t;
            }
        }
    }
    const int done = begin && values;
    free(begin), free(values);
    return done;
}

/* -- groups ---------------------------------------------------------------------------------------------- */

#define COMPARE(a, b) \
    if ((a) != (b)) return (a) < (b) ? -1 : 1

static int by_share(const void *left, const void *right) {
    const Choice *a = left, *b = right;
    COMPARE(b->total, a->total);
    COMPARE(a->leg, b->leg);
    COMPARE(a->facet, b->facet);
    return 0;
}

static int by_word(const void *left, const void *right) {
    const Choice *a = left, *b = right;
    COMPARE(a->follows, b->follows);
    COMPARE(b->says, a->says);
    return by_share(left, right);
}

static int by_kind(const void *left, const void *right) {
    const Choice *a = left, *b = right;
    COMPARE(a->kind, b->kind);
    return by_word(left, right);
}

static Py_ssize_t choices_of(Search *search, Py_ssize_t place, Choice *choices) {
    const Graph *graph = search->graph;
    Py_ssize_t count = 0;
    for (Py_ssize_t n = 0; n < graph->leg_count; n++) {
        Direct *direct = search->direct + place * graph->leg_count + n;
        if (direct->total > 0)
            choices[count++] = (Choice){.leg = n, .facet = -1, .says = direct->says, .total = direct->total, .direct = direct};
    }
    for (Py_ssize_t p = search->pair_begin[place]; p < search->pair_begin[place + 1]; p++) {
        Pair *pair = search->pairs + p;
        if (pair->best > 0)
            choices[count++] = (Choice){.kind = graph->over->kind[pair->facet] + 1, .leg = graph->over - graph->legs,
                                        .facet = pair->facet, .says = pair->total * graph->over->tells[pair->facet],
                                        .total = pair->total, .pair = pair};
    }
    return count;
}

/* Chooses the groups of each item and sets the floors of their paths; returns how many, or -1. */
static Py_ssize_t floors_for_groups(Search *search, Py_ssize_t limit, double named_from, Shown *shown) {
    Choice *choices = malloc((size_t)(search->pair_count + search->graph->leg_count + 1) * sizeof(Choice));
    Py_ssize_t groups = 0;
    if (!choices) return -1;
    for (Py_ssize_t t = 0; t < search->count; t++) {
        const Py_ssize_t count = choices_of(search, t, choices);
        const double whole = whole_of(search, t);
        qsort(choices, (size_t)count, sizeof(Choice), by_kind);
        for (Py_ssize_t c = count; c-- > 1;) choices[c].follows = choices[c].kind == choices[c - 1].kind;
        qsort(choices, (size_t)count, sizeof(Choice), by_word);
        const Py_ssize_t taken = count < limit ? count : limit;
        qsort(choices, (size_t)taken, sizeof(Choice), by_share);
        for (Py_ssize_t c = 0; c < taken; c++, groups++) {
            shown[groups] = (Shown){t, 0, choices[c].total / whole, whole};
            if (choices[c].direct) {
                choices[c].direct->group = groups;
                choices[c].direct->floor = named_from * choices[c].direct->best;
            } else {
                choices[c].pair->group = groups;
                choices[c].pair->floor = named_from * choices[c].pair->best;
            }
        }
    }
    free(choices);
    return groups;
}

/* -- spelling out ---------------------------------------------------------------------------------------- */

static int by_group(const void *left, const void *right) {
    const Path *a = left, *b = right;
    COMPARE(a->group, b->group);
    COMPARE(b->score, a->score);
    COMPARE(a->leg, b->leg);
    COMPARE(a->start, b->start);
    COMPARE(a->facet, b->facet);
    return 0;
}

/* All paths that reach their floors, sorted. */
static int spell_out(Search *search) {
    const Graph *graph = search->graph;
    for (Py_ssize_t p = 0; p < search->straight.count; p++) {
        Path path = search->straight.at[p];
        const Direct *direct = search->direct + path.group * graph->leg_count + path.leg;
        path.group = direct->group;
        if (path.score >= direct->floor && !add_path(&search->found, path)) return 0;
    }
    for (Py_ssize_t h = 0; h < search->hits.count; h++) {
        const Hit *hit = search->hits.at + h;
        const Starts *starts = search->starts + (graph->over - graph->legs);
        for (int32_t p = search->head[hit->slot]; p >= 0; p = search->pairs[p].next) {
            const Pair *pair = search->pairs + p;
            const double score = hit->score * pair->back;
            if (!(score >= pair->floor) || !(score > 0)) continue;
            const Path path = {pair->group, graph->over - graph->legs, starts->node[hit->row], pair->facet,
                               graph->over->kind[pair->facet] + 1, starts->weight[hit->row], hit->gamma, pair->back, score};
            if (!add_path(&search->found, path)) return 0;
        }
    }
    if (search->found.count) qsort(search->found.at, (size_t)search->found.count, sizeof(Path), by_group);
    return 1;
}

/* The first `most` paths of each group stay. */
static void cut(Search *search, Shown *shown, Py_ssize_t most) {
    Py_ssize_t kept = 0;
    for (Py_ssize_t p = 0; p < search->found.count; p++) {
        Shown *group = shown + search->found.at[p].group;
        if (group->paths < most) search->found.at[kept++] = search->found.at[p], group->paths++;
    }
    search->found.count = kept;
}

static void close_search(Search *search) {
    free(search->pair_begin), free(search->pairs), free(search->direct), free(search->head);
    free(search->arrived), free(search->peak);
    free(search->straight.at), free(search->found.at), free(search->hits.at);
}
