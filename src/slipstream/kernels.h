/* What every kernel shares: the Python door, checked buffers, and which instructions this processor has.
 *
 * A kernel file instantiates its hot loops once per instruction set, by including a header between
 * KERNELS_FOR(...) and KERNELS_END, and chooses at run time. Needs GCC or Clang; elsewhere the build fails,
 * which is allowed, and NumPy does the work.
 */
#ifndef SLIPSTREAM_KERNELS_H
#define SLIPSTREAM_KERNELS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__GNUC__)
#error "the kernels use the vector extensions of GCC and Clang"
#endif

#if defined(__x86_64__)
#define HAS_X86 1
#include <immintrin.h>
#else
#define HAS_X86 0
#endif

#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define KERNELS_FOR(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define KERNELS_END PRAGMA(clang attribute pop)
#else
#define KERNELS_FOR(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define KERNELS_END PRAGMA(GCC pop_options)
#endif
#define AVX2_FEATURES "avx2,fma"
#define AVX512_FEATURES "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"

enum Level { PORTABLE, AVX2, AVX512, LEVELS };
static const char *const LEVEL_NAMES[LEVELS] = {"portable", "avx2", "avx512"};

static inline int best_level(void) {
#if HAS_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return PORTABLE;
}

/* The level that a caller asks for by number; -1 with an exception if this processor lacks it. */
static inline int level_of(PyObject *number) {
    long level = PyLong_AsLong(number);
    if (PyErr_Occurred()) return -1;
    if (level < PORTABLE || level > best_level()) {
        PyErr_SetString(PyExc_ValueError, "this processor does not have these instructions");
        return -1;
    }
    return (int)level;
}

/* levels() -> names of the instruction sets that can be used here, the best last; the number is the place. */
static PyObject *levels(PyObject *module, PyObject *none) {
    (void)module, (void)none;
    PyObject *names = PyTuple_New(best_level() + 1);
    for (int i = 0; names && i <= best_level(); i++) {
        PyObject *name = PyUnicode_FromString(LEVEL_NAMES[i]);
        if (!name || PyTuple_SetItem(names, i, name) < 0) {
            Py_DECREF(names);
            return NULL;
        }
    }
    return names;
}

/* `count` numbers of `size` bytes each, contiguous, from anything with a buffer; 0, or -1 with an exception.
 * A failed or never taken view has obj == NULL, so PyBuffer_Release may be called on it. */
static inline int numbers(PyObject *object, Py_buffer *view, Py_ssize_t size, Py_ssize_t count, int writable,
                          const char *name) {
    view->obj = NULL;
    if (PyObject_GetBuffer(object, view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0) return -1;
    if (view->len == size * count && (view->itemsize == size || view->itemsize == 1)) return 0;
    PyErr_Format(PyExc_ValueError, "%s must hold %zd numbers of %zd bytes, got %zd bytes in numbers of %zd", name,
                 count, size, view->len, view->itemsize);
    PyBuffer_Release(view);
    view->obj = NULL;
    return -1;
}

static inline int enough_arguments(Py_ssize_t given, Py_ssize_t wanted, const char *function) {
    if (given == wanted) return 1;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, got %zd", function, wanted, given);
    return 0;
}

#endif
