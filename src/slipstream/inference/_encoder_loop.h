/* The encoder's arithmetic, included once per number type and instruction set by _encoder.c, which defines:
 *
 *   REAL, SINGLE    float and 1, or double and 0
 *   BYTES           of a vector register
 *   PANEL           vectors of a panel: this many columns of a matrix are summed side by side
 *   ROWS            rows of a tile; ROWS * PANEL sums, PANEL weights and one input fit into the registers
 *   NAME(x)         the name of x here
 *
 * Rows of numbers are padded with zeros to whole panels, so no loop over columns has a remainder.
 */

#include "_encoder_math.h"

typedef struct {
    REAL *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias;
    REAL *bias; /* [heads][W + padding]: entry W - age */
    Linear query, key, value, out, ffn_in, ffn_value, ffn_out, gate1, gate2;
} NAME(Block);
#define Block NAME(Block)

/* Neighbouring events: keys [dim][pitch] and values [count][width] from the first of them on, the oldest first. */
typedef struct {
    const REAL *keys, *values;
    Py_ssize_t pitch, width, count, oldest; /* oldest: the age of the first */
} NAME(Piece);
#define Piece NAME(Piece)

/* The logits of one head over a piece, up to a whole vector; `bias` is that of the oldest. Returns their number. */
static Py_ssize_t NAME(logits)(const Piece *piece, const REAL *query, const REAL *key, Py_ssize_t size,
                               const REAL *bias, REAL *logits) {
    const Py_ssize_t whole = (piece->count + LANES - 1) / LANES * LANES;
    Py_ssize_t j = 0;
    for (; j + 2 * LANES <= whole; j += 2 * LANES) {
        vec first = *(const vec *)(bias + j), second = *(const vec *)(bias + j + LANES);
        for (Py_ssize_t i = 0; i < size; i++) {
            first += *(const vec *)(key + i * piece->pitch + j) * query[i];
            second += *(const vec *)(key + i * piece->pitch + j + LANES) * query[i];
        }
        *(vec *)(logits + j) = first, *(vec *)(logits + j + LANES) = second;
    }
    for (; j < whole; j += LANES) {
        vec first = *(const vec *)(bias + j);
        for (Py_ssize_t i = 0; i < size; i++) first += *(const vec *)(key + i * piece->pitch + j) * query[i];
        *(vec *)(logits + j) = first;
    }
    for (j = piece->count; j < whole; j++) logits[j] = NEVER;
    return whole;
}

/* One query against the events of some pieces; `logits` has room for whole vectors of each. */
static void NAME(attend)(const Encoder *encoder, const REAL *query, const Piece *pieces, int some, const REAL *bias,
                         REAL *logits, REAL *out) {
    const Py_ssize_t size = encoder->dim / encoder->heads, span = encoder->window + 2 * PADDING;
    for (Py_ssize_t head = 0; head < encoder->heads; head++, query += size, bias += span, out += size) {
        REAL largest = NEVER;
        Py_ssize_t whole = 0, j;
        for (int p = 0; p < some; p++)
            whole += NAME(logits)(pieces + p, query, pieces[p].keys + head * size * pieces[p].pitch, size,
                                  bias + encoder->window - pieces[p].oldest, logits + whole);
        for (j = 0; j < whole; j++) largest = logits[j] > largest ? logits[j] : largest;
        vec sums = {0};
        for (j = 0; j < whole; j += LANES) {
            const vec share = NAME(exponential)(*(const vec *)(logits + j) - largest);
            *(vec *)(logits + j) = share;
            sums += share;
        }
        const REAL factor = 1 / NAME(total)(sums);
        Py_ssize_t i = 0;
        for (; i < size; i += i + 2 * LANES <= size ? 2 * LANES : 1) {
            const int wide = i + 2 * LANES <= size;
            const REAL *share = logits;
            vec first = {0}, second = {0};
            REAL sum = 0;
            for (int p = 0; p < some; p++) {
                const REAL *value = pieces[p].values + head * size + i;
                const Py_ssize_t width = pieces[p].width, count = pieces[p].count;
                if (wide)
                    for (j = 0; j < count; j++) {
                        first += *(const vec *)(value + j * width) * share[j];
                        second += *(const vec *)(value + j * width + LANES) * share[j];
                    }
                else
                    for (j = 0; j < count; j++) sum += share[j] * value[j * width];
                share += (count + LANES - 1) / LANES * LANES;
            }
            if (wide)
                *(vec *)(out + i) = first * factor, *(vec *)(out + i + LANES) = second * factor;
            else
                out[i] = sum * factor;
        }
    }
}

/* The `count` events of a ring before number `end`, the youngest of age `age`, as one piece or two. */
static int NAME(of_ring)(const Encoder *encoder, const REAL *keys, int64_t end, Py_ssize_t count, Py_ssize_t age,
                         Piece *pieces) {
    const Py_ssize_t dim = encoder->dim, pitch = encoder->pitch, slots = encoder->slots;
    const REAL *values = keys + dim * pitch;
    if (count <= 0) return 0;
    const Py_ssize_t after = (end - 1) % slots + 1, older = count - after;
    if (older <= 0) {
        pieces[0] = (Piece){keys - older, values - older * dim, pitch, dim, count, age + count - 1};
        return 1;
    }
    pieces[0] = (Piece){keys + slots - older, values + (slots - older) * dim, pitch, dim, older, age + count - 1};
    pieces[1] = (Piece){keys, values, pitch, dim, after, age + after - 1};
    return 2;
}

static void NAME(activate)(const Encoder *encoder, const Block *block, REAL *inner, const REAL *gated) {
    for (Py_ssize_t i = 0; i < block->ffn_in.panels * COLUMNS; i += LANES) {
        vec *place = (vec *)(inner + i), f = *place;
        if (encoder->ffn == GELU) /* the tanh form, 1 + tanh(u) = 2 sigmoid(2u) */
            *place = f * NAME(sigmoid)((REAL)1.5957691216057308 * (f + (REAL)0.044715 * f * f * f));
        else
            *place = f * NAME(sigmoid)(f);
        if (encoder->ffn == SWIGLU) *place *= *(const vec *)(gated + i);
    }
}

/* What follows the attention, for rows x [rows][width] in place; `mixed` is what the attention gave. */
static void NAME(after)(const Encoder *encoder, const Block *block, Py_ssize_t rows, REAL *x, const REAL *mixed,
                        REAL *h, REAL *branch, REAL *inner) {
    const Py_ssize_t width = NAME(padded)(encoder->dim), hidden = NAME(padded)(encoder->inner);
    REAL *gated = inner + FFN_ROWS * hidden;
    if (!encoder->gated) {
        NAME(linear)(&block->out, rows, mixed, width, x, width, 1);
    } else {
        NAME(linear)(&block->gate1, rows, x, width, h, width, 0);
        NAME(linear)(&block->out, rows, mixed, width, branch, width, 0);
        for (Py_ssize_t i = 0; i < rows * width; i += LANES)
            *(vec *)(x + i) += NAME(sigmoid)(*(vec *)(h + i)) * *(vec *)(branch + i);
    }
    for (Py_ssize_t start = 0; start < rows; start += FFN_ROWS) {
        const Py_ssize_t some = rows - start < FFN_ROWS ? rows - start : FFN_ROWS;
        REAL *part = x + start * width;
        for (Py_ssize_t r = 0; r < some; r++)
            NAME(norm)(part + r * width, block->norm2_weight, block->norm2_bias, encoder->dim, h + r * width);
        NAME(linear)(&block->ffn_in, some, h, width, inner, hidden, 0);
        if (encoder->ffn == SWIGLU) NAME(linear)(&block->ffn_value, some, h, width, gated, hidden, 0);
        for (Py_ssize_t r = 0; r < some; r++) NAME(activate)(encoder, block, inner + r * hidden, gated + r * hidden);
        if (!encoder->gated) {
            NAME(linear)(&block->ffn_out, some, inner, hidden, part, width, 1);
            continue;
        }
        NAME(linear)(&block->gate2, some, part, width, h, width, 0);
        NAME(linear)(&block->ffn_out, some, inner, hidden, branch, width, 0);
        for (Py_ssize_t i = 0; i < some * width; i += LANES)
            *(vec *)(part + i) += NAME(sigmoid)(*(vec *)(h + i)) * *(vec *)(branch + i);
    }
}

static void NAME(input)(const Encoder *encoder, int32_t item, int64_t gap, REAL *x) {
    const Py_ssize_t dim = encoder->dim, width = NAME(padded)(dim);
#if SINGLE
    const REAL *item_row = packed_row(&encoder->rows, item, x);
#else
    const REAL *item_row = (const REAL *)encoder->item + item * dim;
#endif
    const REAL *gap_row = encoder->bins ? (const REAL *)encoder->gap + gap * dim : NULL;
    for (Py_ssize_t i = 0; i < dim; i++) x[i] = item_row[i] + (gap_row ? gap_row[i] : 0);
    for (Py_ssize_t i = dim; i < width; i++) x[i] = 0;
    NAME(norm)(x, encoder->input_norm[0], encoder->input_norm[1], dim, x);
}

static void NAME(output)(const Encoder *encoder, const REAL *x, REAL *h, REAL *out) {
    NAME(norm)(x, encoder->final_norm[0], encoder->final_norm[1], encoder->dim, h);
    memcpy(out, h, (size_t)encoder->dim * sizeof(REAL));
}

/* -- one event, and whole histories ------------------------------------------------------------------------ */

/* Numbers of scratch that `rows` rows need, of which `tokens` have keys. */
static size_t NAME(room)(const Encoder *encoder, Py_ssize_t rows, Py_ssize_t tokens) {
    const Py_ssize_t width = NAME(padded)(encoder->dim), hidden = NAME(padded)(encoder->inner);
    return (size_t)(width * (7 * rows + tokens + PADDING) + 2 * FFN_ROWS * hidden + encoder->window + 4 * PADDING);
}

/* `states` users of `count` events each; their rings lie one after another; see `Ring` in _encoder.c. */
static void NAME(step)(const Encoder *encoder, Py_ssize_t states, void *rings, int64_t count, const int32_t *item,
                       const int64_t *gap, void *out, void *scratch) {
    const Py_ssize_t dim = encoder->dim, width = NAME(padded)(dim), window = encoder->window;
    const Py_ssize_t slot = count % encoder->slots, filled = count < window ? count + 1 : window;
    const Py_ssize_t pitch = encoder->pitch;
    Piece pieces[2];
    REAL *x = scratch, *h = x + states * width, *query = h + states * width, *key = query + states * width;
    REAL *value = key + states * width, *branch = value + states * width, *mixed = branch + states * width;
    REAL *logits = mixed + states * width, *inner = logits + window + 3 * PADDING;
    memset(mixed, 0, (size_t)(states * width) * sizeof(REAL));
    for (Py_ssize_t s = 0; s < states; s++) NAME(input)(encoder, item[s], gap[s], x + s * width);
    for (Py_ssize_t l = 0; l < encoder->layers; l++) {
        const Block *block = (const Block *)encoder->blocks + l;
        for (Py_ssize_t s = 0; s < states; s++)
            NAME(norm)(x + s * width, block->norm1_weight, block->norm1_bias, dim, h + s * width);
        NAME(linear)(&block->query, states, h, width, query, width, 0);
        NAME(linear)(&block->key, states, h, width, key, width, 0);
        NAME(linear)(&block->value, states, h, width, value, width, 0);
        for (Py_ssize_t s = 0; s < states; s++) {
            REAL *keys = (REAL *)rings + (s * encoder->layers + l) * 2 * dim * pitch, *values = keys + dim * pitch;
            for (Py_ssize_t i = 0; i < dim; i++) keys[i * pitch + slot] = key[s * width + i];
            memcpy(values + slot * dim, value + s * width, (size_t)dim * sizeof(REAL));
            const int some = NAME(of_ring)(encoder, keys, count + 1, filled, 0, pieces);
            NAME(attend)(encoder, query + s * width, pieces, some, block->bias, logits, mixed + s * width);
        }
        NAME(after)(encoder, block, states, x, mixed, h, branch, inner);
    }
    for (Py_ssize_t s = 0; s < states; s++)
        NAME(output)(encoder, x + s * width, h, (REAL *)out + s * dim);
}

/* The last tokens of a history of `total` events, as rows [tokens][width], into the ring of one layer. */
static void NAME(fill)(const Encoder *encoder, REAL *keys, const REAL *key, const REAL *value, Py_ssize_t tokens,
                       int64_t total) {
    const Py_ssize_t dim = encoder->dim, width = NAME(padded)(dim), pitch = encoder->pitch;
    REAL *values = keys + dim * pitch;
    for (Py_ssize_t t = tokens > encoder->slots ? tokens - encoder->slots : 0; t < tokens; t++) {
        const Py_ssize_t slot = (total - tokens + t) % encoder->slots;
        for (Py_ssize_t i = 0; i < dim; i++) keys[i * pitch + slot] = key[t * width + i];
        memcpy(values + slot * dim, value + t * width, (size_t)dim * sizeof(REAL));
    }
}

/* The latest vector of each of `count` histories; lengths [count] are at least 1 and within the receptive field,
 * which a ring makes longer by the slots that it has beyond the window.
 * item and gap hold the tokens of all, one history after another. Each layer computes only the positions that
 * later layers look at: the rows of x shrink towards the ends. ring: of the only history, or NULL. */
static void NAME(whole)(const Encoder *encoder, Py_ssize_t count, Py_ssize_t *lengths, const int32_t *item,
                        const int64_t *gap, Py_ssize_t tokens, void *ring, int64_t total, void *out, void *scratch) {
    const Py_ssize_t dim = encoder->dim, width = NAME(padded)(dim), window = encoder->window;
    const Py_ssize_t pitch = tokens + PADDING;
    REAL *x = scratch, *h = x + tokens * width, *query = h + tokens * width, *key = query + tokens * width;
    REAL *value = key + tokens * width, *branch = value + tokens * width, *mixed = branch + tokens * width;
    REAL *turned = mixed + tokens * width; /* keys as [dim][pitch] */
    REAL *logits = turned + width * pitch, *inner = logits + window + 3 * PADDING;
    memset(mixed, 0, (size_t)(tokens * width) * sizeof(REAL));
    memset(turned, 0, (size_t)(width * pitch) * sizeof(REAL));
    for (Py_ssize_t t = 0; t < tokens; t++) NAME(input)(encoder, item[t], gap[t], x + t * width);
    for (Py_ssize_t l = 0; l < encoder->layers; l++) {
        const Block *block = (const Block *)encoder->blocks + l;
        const Py_ssize_t later = encoder->layers - 1 - l, more = ring && later ? encoder->slots - window : 0;
        const Py_ssize_t band = later * (window - 1) + 1 + more;
        Py_ssize_t start = 0, rows = 0;
        for (Py_ssize_t b = 0; b < count; b++) start += lengths[b];
        for (Py_ssize_t t = 0; t < start; t++)
            NAME(norm)(x + t * width, block->norm1_weight, block->norm1_bias, dim, h + t * width);
        NAME(linear)(&block->key, start, h, width, key, width, 0);
        NAME(linear)(&block->value, start, h, width, value, width, 0);
        for (Py_ssize_t t = 0; t < start; t++)
            for (Py_ssize_t i = 0; i < dim; i++) turned[i * pitch + t] = key[t * width + i];
        if (ring) NAME(fill)(encoder, (REAL *)ring + l * 2 * dim * encoder->pitch, key, value, start, total);
        start = 0;
        for (Py_ssize_t b = 0; b < count; start += lengths[b++]) { /* keep the rows that are still needed */
            const Py_ssize_t need = lengths[b] < band ? lengths[b] : band, first = start + lengths[b] - need;
            memmove(x + rows * width, x + first * width, (size_t)(need * width) * sizeof(REAL));
            memmove(h + rows * width, h + first * width, (size_t)(need * width) * sizeof(REAL));
            rows += need;
        }
        NAME(linear)(&block->query, rows, h, width, query, width, 0);
        start = rows = 0;
        for (Py_ssize_t b = 0; b < count; b++) {
            const Py_ssize_t need = lengths[b] < band ? lengths[b] : band;
            for (Py_ssize_t t = start + lengths[b] - need; t < start + lengths[b]; t++, rows++) {
                const Py_ssize_t low = t - window + 1 > start ? t - window + 1 : start;
                const Piece piece = {turned + low, value + low * width, pitch, width, t + 1 - low, t - low};
                NAME(attend)(encoder, query + rows * width, &piece, 1, block->bias, logits, mixed + rows * width);
            }
            start += lengths[b];
            lengths[b] = need;
        }
        NAME(after)(encoder, block, rows, x, mixed, h, branch, inner);
    }
    for (Py_ssize_t b = 0; b < count; b++) NAME(output)(encoder, x + b * width, h, (REAL *)out + b * dim);
}

/* The latest vector of a user without each of the latest events, the oldest of these first.
 *
 * An event that was left out changes only those after it, so its variant has these as rows of its own and shares
 * all before it with the ring. Their keys and values are kept in `own`, as later events leave them as they are:
 * what was there after `held` events is not computed again. All variants go through a layer together. The one
 * without the last event is what the user was before it: `again` computes that too, else its place in out is left.
 * gap, later: of the latest events, see latest_gaps. */
static void NAME(variants)(const Encoder *encoder, const void *ring, void *own, int64_t held, int64_t count, int again,
                           const int32_t *item, const int64_t *gap, const int64_t *later, void *out, void *scratch) {
    const Py_ssize_t dim = encoder->dim, width = NAME(padded)(dim), window = encoder->window;
    const Py_ssize_t latest = count < LATEST ? (Py_ssize_t)count : LATEST, kept = latest - 1;
    Py_ssize_t first[LATEST], rows = 0, row = 0; /* first: the first row of each variant that is not held */
    for (Py_ssize_t v = 0; v < kept; v++) {
        const int64_t there = held - (count - latest + v) - 1;
        first[v] = there > 0 ? (Py_ssize_t)there : 0;
        rows += kept - v - first[v];
    }
    first[kept] = 0, rows += again;
    REAL *x = scratch, *h = x + rows * width, *query = h + rows * width, *key = query + rows * width;
    REAL *value = key + rows * width, *branch = value + rows * width, *mixed = branch + rows * width;
    REAL *logits = mixed + rows * width, *inner = logits + window + 3 * PADDING;
    Piece pieces[3];
    memset(mixed, 0, (size_t)(rows * width) * sizeof(REAL));
    for (Py_ssize_t v = 0; v < kept; v++)
        for (Py_ssize_t m = first[v]; m < kept - v; m++, row++)
            NAME(input)(encoder, item[v + 1 + m], m ? gap[v + 1 + m] : later[v], x + row * width);
    if (again) NAME(input)(encoder, item[latest - 2], gap[latest - 2], x + row * width);
    for (Py_ssize_t l = 0; l < encoder->layers; l++) {
        const Block *block = (const Block *)encoder->blocks + l;
        const REAL *keys = (const REAL *)ring + l * 2 * dim * encoder->pitch;
        REAL *own_keys = (REAL *)own + l * 2 * dim * (LATEST - 1) * (LATEST - 1);
        REAL *own_values = own_keys + dim * (LATEST - 1) * (LATEST - 1);
        const int last = l == encoder->layers - 1;
        for (Py_ssize_t t = 0; t < rows; t++)
            NAME(norm)(x + t * width, block->norm1_weight, block->norm1_bias, dim, h + t * width);
        NAME(linear)(&block->key, rows, h, width, key, width, 0);
        NAME(linear)(&block->value, rows, h, width, value, width, 0);
        Py_ssize_t wanted = 0;
        row = 0;
        for (Py_ssize_t v = 0; v < kept + again; v++) {
            const Py_ssize_t end = v < kept ? kept - v : 1, place = (count - latest + v) % (LATEST - 1) * (LATEST - 1);
            for (Py_ssize_t m = first[v]; m < end; m++, row++) {
                for (Py_ssize_t i = 0; v < kept && i < dim; i++)
                    own_keys[place * dim + i * (LATEST - 1) + m] = key[row * width + i];
                if (v < kept) memcpy(own_values + (place + m) * dim, value + row * width, (size_t)dim * sizeof(REAL));
                if (last && m + 1 < end) continue; /* of the last layer only the last row of each is needed */
                if (wanted != row) memmove(x + wanted * width, x + row * width, (size_t)width * sizeof(REAL));
                if (wanted != row) memmove(h + wanted * width, h + row * width, (size_t)width * sizeof(REAL));
                wanted++;
            }
        }
        NAME(linear)(&block->query, wanted, h, width, query, width, 0);
        row = 0;
        for (Py_ssize_t v = 0; v < kept; v++) {
            const int64_t before = count - latest + v;
            const Py_ssize_t place = before % (LATEST - 1) * (LATEST - 1);
            for (Py_ssize_t m = last ? kept - v : first[v] + 1; m <= kept - v; m++, row++) {
                const Py_ssize_t seen = m < window ? m : window, shared = window - seen;
                int some = NAME(of_ring)(encoder, keys, before, before < shared ? (Py_ssize_t)before : shared, seen, pieces);
                pieces[some++] = (Piece){own_keys + place * dim + m - seen, own_values + (place + m - seen) * dim,
                                         LATEST - 1, dim, seen, seen - 1};
                NAME(attend)(encoder, query + row * width, pieces, some, block->bias, logits, mixed + row * width);
            }
        }
        if (again) {
            const Py_ssize_t seen = count - 1 < window ? (Py_ssize_t)count - 1 : window;
            const int some = NAME(of_ring)(encoder, keys, count - 1, seen, 0, pieces);
            NAME(attend)(encoder, query + row * width, pieces, some, block->bias, logits, mixed + row * width);
        }
        NAME(after)(encoder, block, wanted, x, mixed, h, branch, inner);
    }
    for (Py_ssize_t v = 0; v < kept + again; v++)
        NAME(output)(encoder, x + v * width, h, (REAL *)out + v * dim);
}

/* -- opening ----------------------------------------------------------------------------------------------- */

/* `out` columns of a matrix whose rows are `stride` apart, times `factor`. bias may be NULL. */
static int NAME(pack)(Linear *linear, Py_ssize_t in, Py_ssize_t out, Py_ssize_t stride, const REAL *weight,
                      const REAL *bias, REAL factor, Arena *arena) {
    linear->in = in, linear->panels = NAME(padded)(out) / COLUMNS;
    linear->weight = allot(arena, (size_t)(linear->panels * in * COLUMNS) * sizeof(REAL));
    linear->bias = allot(arena, (size_t)(linear->panels * COLUMNS) * sizeof(REAL));
    if (!linear->weight || !linear->bias) return -1;
    for (Py_ssize_t o = 0; o < out; o++) {
        const Py_ssize_t panel = o / COLUMNS, column = o % COLUMNS;
        for (Py_ssize_t i = 0; i < in; i++)
            linear->weight[(panel * in + i) * COLUMNS + column] = weight[i * stride + o] * factor;
        linear->bias[o] = bias ? bias[o] * factor : 0;
    }
    return 0;
}

static REAL *NAME(row_of)(const REAL *values, Py_ssize_t dim, Arena *arena) {
    REAL *row = allot(arena, (size_t)NAME(padded)(dim) * sizeof(REAL));
    if (row) memcpy(row, values, (size_t)dim * sizeof(REAL));
    return row;
}

/* The weights of one block, one after another in the order of the fields of `TransformerBlock` (blocks.py). */
static const REAL *NAME(open_block)(Encoder *encoder, Block *block, const REAL *at, Arena *arena) {
    const Py_ssize_t dim = encoder->dim, inner = encoder->inner, window = encoder->window, span = window + 2 * PADDING;
    const Py_ssize_t wide = encoder->ffn == SWIGLU ? 2 * inner : inner;
    const REAL scale = (REAL)(1 / sqrt((double)(dim / encoder->heads)));
    const REAL *w;
    int failed = 0;
    block->norm1_weight = NAME(row_of)(at, dim, arena), at += dim;
    block->norm1_bias = NAME(row_of)(at, dim, arena), at += dim;
    w = at, at += 3 * dim * dim;
    failed |= NAME(pack)(&block->query, dim, dim, 3 * dim, w, at, scale, arena);
    failed |= NAME(pack)(&block->key, dim, dim, 3 * dim, w + dim, at + dim, 1, arena);
    failed |= NAME(pack)(&block->value, dim, dim, 3 * dim, w + 2 * dim, at + 2 * dim, 1, arena);
    at += 3 * dim;
    block->bias = allot(arena, (size_t)(encoder->heads * span) * sizeof(REAL));
    for (Py_ssize_t head = 0; block->bias && head < encoder->heads; head++)
        for (Py_ssize_t age = 0; age < window; age++)
            block->bias[head * span + window - age] = at[head * window + age];
    at += encoder->heads * window;
    w = at, at += dim * dim;
    failed |= NAME(pack)(&block->out, dim, dim, dim, w, at, 1, arena), at += dim;
    block->norm2_weight = NAME(row_of)(at, dim, arena), at += dim;
    block->norm2_bias = NAME(row_of)(at, dim, arena), at += dim;
    w = at, at += dim * wide;
    failed |= NAME(pack)(&block->ffn_in, dim, inner, wide, w, at, 1, arena);
    if (encoder->ffn == SWIGLU) failed |= NAME(pack)(&block->ffn_value, dim, inner, wide, w + inner, at + inner, 1, arena);
    at += wide;
    w = at, at += inner * dim;
    failed |= NAME(pack)(&block->ffn_out, inner, dim, dim, w, at, 1, arena), at += dim;
    for (int g = 0; g < 2 * encoder->gated; g++) {
        w = at, at += dim * dim;
        failed |= NAME(pack)(g % 2 ? &block->gate2 : &block->gate1, dim, dim, dim, w, at, 1, arena), at += dim;
    }
    failed |= !block->norm1_weight || !block->norm1_bias || !block->norm2_weight || !block->norm2_bias || !block->bias;
    return failed ? NULL : at;
}

static int NAME(open)(Encoder *encoder, const void *weights, Arena *arena) {
    const REAL *at = weights;
    for (int n = 0; n < 2; n++, at += encoder->dim)
        if (!(encoder->input_norm[n] = NAME(row_of)(at, encoder->dim, arena))) return -1;
    for (int n = 0; n < 2; n++, at += encoder->dim)
        if (!(encoder->final_norm[n] = NAME(row_of)(at, encoder->dim, arena))) return -1;
    Block *blocks = allot(arena, (size_t)encoder->layers * sizeof(Block));
    if (!blocks) return -1;
    encoder->blocks = blocks;
    for (Py_ssize_t l = 0; at && l < encoder->layers; l++) at = NAME(open_block)(encoder, blocks + l, at, arena);
    return at ? 0 : -1;
}

static const Arithmetic NAME(arithmetic) = {NAME(open), NAME(room), NAME(step), NAME(whole), NAME(variants)};

#undef vec
#undef LANES
#undef COLUMNS
#undef Linear
#undef Piece
#undef Block
#undef REAL
#undef SINGLE
#undef BYTES
#undef PANEL
#undef ROWS
#undef NAME
