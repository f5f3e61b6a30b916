/* Sums, exp and matrices of one number type and instruction set; included by _encoder_loop.h, see there. */

typedef REAL NAME(vec) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
#define vec NAME(vec)
enum { NAME(lanes) = BYTES / sizeof(REAL), NAME(columns) = PANEL * BYTES / sizeof(REAL) };
#define LANES NAME(lanes)
#define COLUMNS NAME(columns)

static inline Py_ssize_t NAME(padded)(Py_ssize_t width) { return (width + COLUMNS - 1) / COLUMNS * COLUMNS; }

/* -- exp, sums --------------------------------------------------------------------------------------------- */

#if SINGLE
typedef int32_t NAME(ints) __attribute__((vector_size(BYTES), aligned(4), may_alias));

/* 2^n e^r with |r| <= ln(2)/2: the series to the seventh power is within 6e-9. Clamped to what float32 holds. */
static inline vec NAME(exponential)(vec x) {
    const vec zero = {0};
    NAME(ints) low = x < zero - 87.0f, high = x > zero + 88.0f;
    x = (vec)(((NAME(ints))x & ~low & ~high) | ((NAME(ints))(zero - 87.0f) & low) | ((NAME(ints))(zero + 88.0f) & high));
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    const vec shifted = x * 1.44269504089f + magic;
    const vec n = shifted - magic;
    const vec r = (x - n * 0.693359375f) + n * 2.12194440055e-4f; /* ln 2 in two parts, the first exact in n */
    vec p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (vec)((NAME(ints))p + (((NAME(ints))shifted - 0x4b400000) << 23));
}
#else
static inline vec NAME(exponential)(vec x) {
    for (int l = 0; l < LANES; l++) x[l] = exp(x[l] < 700 ? x[l] : 700);
    return x;
}
#endif

static inline REAL NAME(total)(vec x) {
    REAL sum = 0;
    for (int l = 0; l < LANES; l++) sum += x[l];
    return sum;
}

static inline vec NAME(sigmoid)(vec x) { return (REAL)1 / ((REAL)1 + NAME(exponential)(-x)); }

/* -- matrices ---------------------------------------------------------------------------------------------- */

typedef struct {
    Py_ssize_t in, panels;
    REAL *weight; /* [panels][in][COLUMNS] */
    REAL *bias;   /* [panels][COLUMNS] */
} NAME(Linear);
#define Linear NAME(Linear)

/* y [rows][y_width] = (add ? y : 0) + bias + x [rows][x_width] W, for `count` rows known to the compiler. */
static inline __attribute__((always_inline)) void NAME(tile)(const Linear *linear, const REAL *weight,
                                                             const REAL *bias, int count, const REAL *x,
                                                             Py_ssize_t x_width, REAL *y, Py_ssize_t y_width,
                                                             int add) {
    vec sum[ROWS][PANEL];
    for (int r = 0; r < count; r++)
        for (int c = 0; c < PANEL; c++) sum[r][c] = *(const vec *)(bias + c * LANES);
    for (Py_ssize_t i = 0; i < linear->in; i++) {
        vec w[PANEL];
        for (int c = 0; c < PANEL; c++) w[c] = *(const vec *)(weight + i * COLUMNS + c * LANES);
        for (int r = 0; r < count; r++) {
            const REAL input = x[r * x_width + i];
            for (int c = 0; c < PANEL; c++) sum[r][c] += w[c] * input;
        }
    }
    for (int r = 0; r < count; r++)
        for (int c = 0; c < PANEL; c++) {
            vec *place = (vec *)(y + r * y_width + c * LANES);
            if (add) sum[r][c] += *place;
            *place = sum[r][c];
        }
}

/* One row: two chains of sums for each vector, over even and odd inputs. */
static inline void NAME(row)(const Linear *linear, const REAL *weight, const REAL *bias, const REAL *x, REAL *y,
                             int add) {
    vec even[PANEL], odd[PANEL];
    for (int c = 0; c < PANEL; c++) even[c] = *(const vec *)(bias + c * LANES), odd[c] = even[c] - even[c];
    Py_ssize_t i = 0;
    for (; i + 2 <= linear->in; i += 2, weight += 2 * COLUMNS)
        for (int c = 0; c < PANEL; c++) {
            even[c] += *(const vec *)(weight + c * LANES) * x[i];
            odd[c] += *(const vec *)(weight + COLUMNS + c * LANES) * x[i + 1];
        }
    for (; i < linear->in; i++)
        for (int c = 0; c < PANEL; c++) even[c] += *(const vec *)(weight + c * LANES) * x[i];
    for (int c = 0; c < PANEL; c++) {
        vec *place = (vec *)(y + c * LANES);
        even[c] += odd[c];
        if (add) even[c] += *place;
        *place = even[c];
    }
}

static void NAME(linear)(const Linear *linear, Py_ssize_t rows, const REAL *x, Py_ssize_t x_width, REAL *y,
                         Py_ssize_t y_width, int add) {
    for (Py_ssize_t p = 0; p < linear->panels; p++) {
        const REAL *weight = linear->weight + p * linear->in * COLUMNS, *bias = linear->bias + p * COLUMNS;
        const REAL *from = x;
        REAL *to = y + p * COLUMNS;
        Py_ssize_t left = rows;
        for (; left >= ROWS; left -= ROWS, from += ROWS * x_width, to += ROWS * y_width)
            NAME(tile)(linear, weight, bias, ROWS, from, x_width, to, y_width, add);
        if (left >= 3) {
            NAME(tile)(linear, weight, bias, 3, from, x_width, to, y_width, add);
            left -= 3, from += 3 * x_width, to += 3 * y_width;
        }
        for (; left > 0; left--, from += x_width, to += y_width) NAME(row)(linear, weight, bias, from, to, add);
    }
}

static void NAME(norm)(const REAL *x, const REAL *weight, const REAL *bias, Py_ssize_t dim, REAL *y) {
    const Py_ssize_t whole = dim / LANES * LANES, width = NAME(padded)(dim);
    vec sums = {0}, squares = {0};
    for (Py_ssize_t i = 0; i < whole; i += LANES) sums += *(const vec *)(x + i);
    REAL mean = NAME(total)(sums), spread;
    for (Py_ssize_t i = whole; i < dim; i++) mean += x[i];
    mean /= dim;
    for (Py_ssize_t i = 0; i < whole; i += LANES) {
        const vec centred = *(const vec *)(x + i) - mean;
        squares += centred * centred;
    }
    spread = NAME(total)(squares);
    for (Py_ssize_t i = whole; i < dim; i++) spread += (x[i] - mean) * (x[i] - mean);
    const REAL factor = 1 / (REAL)sqrt(spread / dim + (REAL)1e-5);
    for (Py_ssize_t i = 0; i < width; i += LANES) /* the padding stays zero: so are its weight and bias */
        *(vec *)(y + i) = (*(const vec *)(x + i) - mean) * factor * *(const vec *)(weight + i) + *(const vec *)(bias + i);
}
