/* The loops of _scan_loop.h for each instruction set. All give the same sums, so the same answers. */

typedef struct { int32_t lane[16]; } Sums;

static inline Sums sums_of(int32_t value) {
    Sums sums;
    for (int l = 0; l < 16; l++) sums.lane[l] = value;
    return sums;
}

static inline void dot4(Sums *sums, const uint8_t *line, int32_t word) {
    int8_t w[4];
    memcpy(w, &word, 4);
    for (int l = 0; l < 16; l++)
        sums->lane[l] += line[4 * l] * w[0] + line[4 * l + 1] * w[1] + line[4 * l + 2] * w[2] + line[4 * l + 3] * w[3];
}

static inline uint32_t reaching(const Sums *sums, const float *scale, float limit) {
    uint32_t mask = 0;
    for (int l = 0; l < 16; l++) mask |= (uint32_t)((float)sums->lane[l] * scale[l] >= limit) << l;
    return mask;
}

static inline void spread(const Sums *sums, const float *scale, float bound, float *out) {
    for (int l = 0; l < 16; l++) out[l] = (float)sums->lane[l] * scale[l] + bound;
}

#define NAME(x) x##_portable
#define LANES Sums
#define START(value) sums_of(value)
#define DOT4(sums, line, word) dot4(&(sums), line, word)
#define JOIN(sums, other) \
    for (int l = 0; l < 16; l++) (sums).lane[l] += (other).lane[l]
#define OVER(sums, scale, limit) reaching(&(sums), scale, limit)
#define SPREAD(sums, scale, bound, out) spread(&(sums), scale, bound, out)
#define TILE 1
#include "_scan_loop.h"

#if HAS_X86
KERNELS_FOR(AVX2_FEATURES)
typedef struct { __m256i low, high; } Halves;

static inline Halves halves_of(int32_t value) {
    return (Halves){_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
}

/* vpmaddubsw saturates, so it gets |v| <= 127 and w with the sign of v: two products fit into 16 bits. */
static inline __m256i dot4_half(__m256i sums, const uint8_t *line, __m256i w) {
    const __m256i v = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)line), _mm256_set1_epi8((char)0x80));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(w, v));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline Halves dot4_avx2(Halves sums, const uint8_t *line, int32_t word) {
    const __m256i w = _mm256_set1_epi32(word);
    return (Halves){dot4_half(sums.low, line, w), dot4_half(sums.high, line + 32, w)};
}

static inline __m256 scaled(__m256i sums, const float *scale) {
    return _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(scale));
}

static inline uint32_t over_avx2(Halves sums, const float *scale, float limit) {
    const __m256 edge = _mm256_set1_ps(limit);
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(scaled(sums.low, scale), edge, _CMP_GE_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(scaled(sums.high, scale + 8), edge, _CMP_GE_OQ));
    return (uint32_t)low | (uint32_t)high << 8;
}

static inline void spread_avx2(Halves sums, const float *scale, float bound, float *out) {
    _mm256_storeu_ps(out, _mm256_add_ps(scaled(sums.low, scale), _mm256_set1_ps(bound)));
    _mm256_storeu_ps(out + 8, _mm256_add_ps(scaled(sums.high, scale + 8), _mm256_set1_ps(bound)));
}

#define NAME(x) x##_avx2
#define LANES Halves
#define START(value) halves_of(0 * (value)) /* signed bytes here: nothing to take away */
#define DOT4(sums, line, word) sums = dot4_avx2(sums, line, word)
#define JOIN(sums, other) \
    sums = (Halves) { _mm256_add_epi32((sums).low, (other).low), _mm256_add_epi32((sums).high, (other).high) }
#define OVER(sums, scale, limit) over_avx2(sums, scale, limit)
#define SPREAD(sums, scale, bound, out) spread_avx2(sums, scale, bound, out)
#define TILE 2
#include "_scan_loop.h"
KERNELS_END

KERNELS_FOR(AVX512_FEATURES)
static inline __m512 scaled_512(__m512i sums, const float *scale) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(scale));
}

#define NAME(x) x##_avx512
#define LANES __m512i
#define START(value) _mm512_set1_epi32(value)
#define DOT4(sums, line, word) sums = _mm512_dpbusd_epi32(sums, _mm512_loadu_si512(line), _mm512_set1_epi32(word))
#define JOIN(sums, other) sums = _mm512_add_epi32(sums, other)
#define OVER(sums, scale, limit) \
    (uint32_t) _mm512_cmp_ps_mask(scaled_512(sums, scale), _mm512_set1_ps(limit), _CMP_GE_OQ)
#define SPREAD(sums, scale, bound, out) \
    _mm512_storeu_ps(out, _mm512_add_ps(scaled_512(sums, scale), _mm512_set1_ps(bound)))
#define TILE 8
#include "_scan_loop.h"
KERNELS_END
#endif

typedef struct {
    Py_ssize_t (*find_one)(const Table *, const Query *, float, Py_ssize_t, Py_ssize_t, uint32_t *, float *);
    Py_ssize_t (*find_group)(const Table *, const Group *, Py_ssize_t, Py_ssize_t, uint32_t *, float *);
    float (*exact)(const double *, const float *, Py_ssize_t);
} Loops;

static const Loops LOOPS[LEVELS] = {
    {find_one_portable, find_group_portable, exact_portable},
#if HAS_X86
    {find_one_avx2, find_group_avx2, exact_avx2},
    {find_one_avx512, find_group_avx512, exact_avx512},
#endif
};
