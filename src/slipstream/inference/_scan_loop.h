/* The hot loops of the scan, included once per instruction set by _scan.c, which defines before:
 *
 *   LANES                   16 int32 sums, one per item of half a block
 *   START(query_start)      the value a sum begins with
 *   DOT4(sums, line, word)  adds to each lane the products of its 4 bytes with the 4 signed bytes of `word`
 *   OVER(sums, scale, limit) bit l set where float(sum l) * scale[l] >= limit
 *   SPREAD(sums, scale, bound, out)  out[l] = float(sum l) * scale[l] + bound
 *   TILE                    queries whose sums are kept in registers together (a divisor of GROUP)
 *   NAME(x)                 the name of x for this instruction set
 *
 * Both halves of a block share each word of the query, and four chains of sums hide the latency.
 */

static Py_ssize_t NAME(find_one)(const Table *table, const Query *query, float root, Py_ssize_t block,
                                 Py_ssize_t last, uint32_t *over, float *upper) {
    const Py_ssize_t words = table->words;
    const uint8_t *line = table->lines + block * words * BLOCK * 4;
    for (; block < last; block++) {
        LANES a0 = START(query->start), c0 = a0, a1 = START(0), c1 = a1;
        for (Py_ssize_t g = 0; g < words; g += 2, line += 256) {
            DOT4(a0, line, query->words[g]);
            DOT4(c0, line + 64, query->words[g]);
            DOT4(a1, line + 128, query->words[g + 1]);
            DOT4(c1, line + 192, query->words[g + 1]);
        }
        JOIN(a0, a1);
        JOIN(c0, c1);
        const float *scale = table->scale + block * BLOCK;
        const float bound = table->error[block] * query->per_error + table->size[block] * query->per_size;
        const uint32_t found = OVER(a0, scale, root - bound) | OVER(c0, scale + 16, root - bound) << 16;
        if (UNLIKELY(found)) {
            SPREAD(a0, scale, bound, upper);
            SPREAD(c0, scale + 16, bound, upper + 16);
            *over = found;
            return block;
        }
    }
    return last;
}

/* The same for GROUP queries at once; over[q] and upper[q * BLOCK ...] for each of them. */
static Py_ssize_t NAME(find_group)(const Table *table, const Group *group, Py_ssize_t block, Py_ssize_t last,
                                   uint32_t *over, float *upper) {
    const Py_ssize_t words = table->words;
    for (; block < last; block++) {
        const uint8_t *lines = table->lines + block * words * BLOCK * 4;
        const float *scale = table->scale + block * BLOCK;
        uint32_t any = 0;
        for (int tile = 0; tile < GROUP; tile += TILE) {
            LANES a[TILE], c[TILE];
            for (int q = 0; q < TILE; q++) a[q] = c[q] = START(group->start[tile + q]);
            for (Py_ssize_t g = 0; g < words; g++) {
                for (int q = 0; q < TILE; q++) {
                    const int32_t word = group->words[g * GROUP + tile + q];
                    DOT4(a[q], lines + g * 128, word);
                    DOT4(c[q], lines + g * 128 + 64, word);
                }
            }
            for (int q = 0; q < TILE; q++) {
                const float bound =
                    table->error[block] * group->per_error[tile + q] + table->size[block] * group->per_size[tile + q];
                const float limit = group->root[tile + q] - bound;
                const uint32_t found = OVER(a[q], scale, limit) | OVER(c[q], scale + 16, limit) << 16;
                over[tile + q] = found;
                any |= found;
                if (UNLIKELY(found)) {
                    SPREAD(a[q], scale, bound, upper + (tile + q) * BLOCK);
                    SPREAD(c[q], scale + 16, bound, upper + (tile + q) * BLOCK + 16);
                }
            }
        }
        if (UNLIKELY(any)) return block;
    }
    return last;
}

/* The score by definition: eight sums, then their sum. Products of two float32 are exact in float64, so it does
 * not matter whether the compiler fuses them with the addition. */
static float NAME(exact)(const double *query, const float *row, Py_ssize_t dim) {
    double sum[8] = {0};
    Py_ssize_t j = 0;
    for (; j + 8 <= dim; j += 8)
        for (int l = 0; l < 8; l++) sum[l] += query[j + l] * row[j + l];
    for (int l = 0; j < dim; j++, l++) sum[l] += query[j] * row[j];
    return (float)(((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7])));
}

#undef LANES
#undef START
#undef DOT4
#undef JOIN
#undef OVER
#undef SPREAD
#undef TILE
#undef NAME
