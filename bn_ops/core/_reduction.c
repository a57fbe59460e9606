/* Mean and sum of squared deviations of many rows, in one read of memory.
 *
 * A row is one sample's values in one channel. Each row is reduced on its own:
 *
 *     d = x - x0,   s = sum(d),   q = sum(d * d)
 *     mean = x0 + s / P,   sq_dev = q - s * s / P
 *
 * x0 is the row's first value and P the number of its values. All arithmetic is float64.
 *
 * Accuracy. The difference of two float32 numbers is exact in float64 unless their exponents are more than 29 apart,
 * and its square is then rounded once. q - s*s/P loses a factor 1 + k*k of the 2**-53 of float64, k being the distance
 * of x0 from the mean in standard deviations. The mean itself does not enter, so there is no cancellation where
 * |mean| is much larger than the deviation: a row whose first value is 1,000 standard deviations off still has its
 * variance to 1e-9. A constant row gives exactly zero. (Chan, Golub, LeVeque, "Algorithms for Computing the Sample
 * Variance", The American Statistician 37, 1983, section 3: shifted data.)
 *
 * Same bits everywhere. The order of every sum is fixed by the layout and by LANES and UNROLL below, never by the
 * instruction set: the code is written with vectors of eight float64 values, which compilers map to one AVX-512, two
 * AVX2 or four SSE2/NEON registers. It must be compiled with -ffp-contract=off; a fused multiply-add would round
 * d * d + q once instead of twice, and only where the processor has it. Rows are independent, so callers may divide
 * them among threads in any way.
 *
 * Speed. Reading memory is what costs. Accumulators stay in registers: 32 lanes of a planar row, or up to 64 channels
 * of an interleaved one. The interpreter lock is released for the whole call.
 *
 * The functions take buffers, not arrays, so that the module needs only Python's limited API (abi3, from 3.11) and no
 * numpy headers. `bn_ops.core.reduction` wraps them, checks shapes, and falls back to numpy where this file was not compiled.
 */

#define _GNU_SOURCE /* for RTLD_DEFAULT */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#ifndef _WIN32
#include <dlfcn.h>
#endif

/* One clone per instruction set, chosen when the module is loaded (GCC's function multiversioning, which needs ifunc). */
#ifdef CLONES /* given on the command line */
#elif defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

/* Vectors are passed between inlined functions only, so the calling convention that this warns about is never used. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

typedef double wide __attribute__((vector_size(64), aligned(8), may_alias));
typedef float narrow __attribute__((vector_size(32), aligned(4), may_alias));

enum {
    WIDTH = 8,       /* values in one vector */
    LANES = 32,      /* partial sums of a planar row: four vectors hide the latency of an addition */
    UNROLL = 4,      /* partial sums per channel where few channels are interleaved, for the same reason */
    GROUP = 64,      /* interleaved channels reduced together: sixteen vectors of accumulators */
    BLOCK = 1 << 16, /* values of an interleaved row read before the next group of channels: 256 KiB, half of an L2 cache */
};

/* Element types, as the Python side numbers them. */
enum { FLOAT32, FLOAT64, FLOAT16, BFLOAT16 };

INLINE float half_to_float(uint16_t h) {
    /* Shift exponent and mantissa into place and multiply by 2**112 = 2**(127 - 15): right for normal and subnormal
       numbers. Infinity and NaN have exponent 31 and need float32's own exponent of ones. */
    uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
    float value, scale = 0x1p112f;
    memcpy(&value, &bits, sizeof value);
    value *= scale;
    memcpy(&bits, &value, sizeof bits);
    if ((h & 0x7c00) == 0x7c00) bits |= 0x7f800000u;
    bits |= (uint32_t)(h & 0x8000) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE double element(const char *x, Py_ssize_t i, int type) {
    switch (type) {
    case FLOAT64: return ((const double *)x)[i];
    case FLOAT16: return half_to_float(((const uint16_t *)x)[i]);
    case BFLOAT16: {
        uint32_t bits = (uint32_t)((const uint16_t *)x)[i] << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    default: return ((const float *)x)[i];
    }
}

INLINE wide load(const char *x, Py_ssize_t i, int type) {
    if (type == FLOAT64) return *(const wide *)((const double *)x + i);
    if (type == FLOAT32) return __builtin_convertvector(*(const narrow *)((const float *)x + i), wide);
    wide v;
    for (int k = 0; k < WIDTH; k++) v[k] = element(x, i + k, type);
    return v;
}

/* Sum of a vector's values, in a fixed tree. */
INLINE double total(wide v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

INLINE void finish(double x0, double s, double q, double positions, double *mean, double *sq_dev) {
    double left = q - s * s / positions;
    *mean = x0 + s / positions;
    *sq_dev = left < 0 ? 0 : left; /* NaN is not < 0 and passes through */
}

/* One row of values that lie next to each other. */
INLINE void planar_row(const char *x, Py_ssize_t start, Py_ssize_t length, int type, double *mean, double *sq_dev) {
    double x0 = element(x, start, type);
    wide s[LANES / WIDTH], q[LANES / WIDTH], shift = x0 - (wide){0};
    for (int k = 0; k < LANES / WIDTH; k++) s[k] = q[k] = (wide){0};
    Py_ssize_t i = 0;
    for (; i + LANES <= length; i += LANES)
        for (int k = 0; k < LANES / WIDTH; k++) {
            wide d = load(x, start + i + k * WIDTH, type) - shift;
            s[k] += d;
            q[k] += d * d;
        }
    /* The rest, vector by vector; values beyond the end count as x0 and add nothing. */
    for (int k = 0; i < length; i += WIDTH, k++) {
        wide v = shift;
        if (i + WIDTH <= length)
            v = load(x, start + i, type);
        else
            for (int j = 0; i + j < length; j++) v[j] = element(x, start + i + j, type);
        wide d = v - shift;
        s[k] += d;
        q[k] += d * d;
    }
    wide sum = (s[0] + s[2]) + (s[1] + s[3]), square = (q[0] + q[2]) + (q[1] + q[3]);
    finish(x0, total(sum), total(square), (double)length, mean, sq_dev);
}

#define PLANAR(NAME, TYPE)                                                                                             \
    CLONES static void NAME(const char *x, Py_ssize_t rows, Py_ssize_t length, double *mean, double *sq_dev) {         \
        for (Py_ssize_t r = 0; r < rows; r++) planar_row(x, r * length, length, TYPE, mean + r, sq_dev + r);           \
    }
PLANAR(planar_float32, FLOAT32)
PLANAR(planar_float64, FLOAT64)
PLANAR(planar_float16, FLOAT16)
PLANAR(planar_bfloat16, BFLOAT16)

/* Add positions [from, to) of `vectors` neighboring vectors of channels to their partial sums. Position p goes to
   partial sum p % unroll. s and q are laid out [unroll][vectors]. */
INLINE void add_positions(const char *x, Py_ssize_t offset, Py_ssize_t channels, Py_ssize_t from, Py_ssize_t to, int type,
                          const wide *shift, wide *s, wide *q, int vectors, int unroll) {
    wide sums[GROUP / WIDTH], squares[GROUP / WIDTH];
    for (int k = 0; k < vectors * unroll; k++) sums[k] = s[k], squares[k] = q[k];
    for (Py_ssize_t p = from; p < to; p += unroll)
        for (int u = 0; u < unroll; u++) {
            if (unroll > 1 && p + u >= to) break;
            for (int k = 0; k < vectors; k++) {
                wide d = load(x, offset + (p + u) * channels + k * WIDTH, type) - shift[k];
                sums[u * vectors + k] += d;
                squares[u * vectors + k] += d * d;
            }
        }
    for (int k = 0; k < vectors * unroll; k++) s[k] = sums[k], q[k] = squares[k];
}

/* One row of positions with `channels` values each, read in blocks that stay in cache from one group of channels to
   the next. */
INLINE void interleaved_row(const char *x, Py_ssize_t start, Py_ssize_t positions, Py_ssize_t channels, int type,
                            wide *s, wide *q, double *mean, double *sq_dev) {
    /* Partial sums of all channels of a row wait in s and q between blocks. */
    Py_ssize_t whole = channels / WIDTH, step = BLOCK / channels / UNROLL * UNROLL;
    if (step < UNROLL) step = UNROLL;
    memset(s, 0, (size_t)whole * UNROLL * sizeof *s);
    memset(q, 0, (size_t)whole * UNROLL * sizeof *q);
    for (Py_ssize_t from = 0; from < positions; from += step) {
        Py_ssize_t to = from + step < positions ? from + step : positions, k = 0;
        wide shift[GROUP / WIDTH];
        for (; k + GROUP / WIDTH <= whole; k += GROUP / WIDTH) {
            for (int j = 0; j < GROUP / WIDTH; j++) shift[j] = load(x, start + (k + j) * WIDTH, type);
            add_positions(x, start + k * WIDTH, channels, from, to, type, shift, s + k * UNROLL, q + k * UNROLL,
                          GROUP / WIDTH, 1);
        }
        for (; k + 2 <= whole; k += 2) {
            for (int j = 0; j < 2; j++) shift[j] = load(x, start + (k + j) * WIDTH, type);
            add_positions(x, start + k * WIDTH, channels, from, to, type, shift, s + k * UNROLL, q + k * UNROLL, 2, UNROLL);
        }
        if (k < whole) {
            shift[0] = load(x, start + k * WIDTH, type);
            add_positions(x, start + k * WIDTH, channels, from, to, type, shift, s + k * UNROLL, q + k * UNROLL, 1, UNROLL);
        }
    }
    Py_ssize_t k = 0;
    for (; k + GROUP / WIDTH <= whole; k += GROUP / WIDTH)
        for (int c = 0; c < GROUP; c++)
            finish(element(x, start + k * WIDTH + c, type), s[k * UNROLL + c / WIDTH][c % WIDTH],
                   q[k * UNROLL + c / WIDTH][c % WIDTH], (double)positions, mean + k * WIDTH + c, sq_dev + k * WIDTH + c);
    while (k < whole) {
        int vectors = k + 2 <= whole ? 2 : 1;
        wide *a = s + k * UNROLL, *b = q + k * UNROLL;
        for (int j = 0; j < vectors; j++) {
            wide sum = (a[j] + a[2 * vectors + j]) + (a[vectors + j] + a[3 * vectors + j]);
            wide square = (b[j] + b[2 * vectors + j]) + (b[vectors + j] + b[3 * vectors + j]);
            for (int c = 0; c < WIDTH; c++) {
                Py_ssize_t channel = (k + j) * WIDTH + c;
                finish(element(x, start + channel, type), sum[c], square[c], (double)positions, mean + channel,
                       sq_dev + channel);
            }
        }
        k += vectors;
    }
    /* Fewer channels than a vector holds: one after the other. */
    for (Py_ssize_t c = whole * WIDTH; c < channels; c++) {
        double x0 = element(x, start + c, type), sum = 0, square = 0;
        for (Py_ssize_t p = 0; p < positions; p++) {
            double d = element(x, start + p * channels + c, type) - x0;
            sum += d;
            square += d * d;
        }
        finish(x0, sum, square, (double)positions, mean + c, sq_dev + c);
    }
}

#define INTERLEAVED(NAME, TYPE)                                                                                        \
    CLONES static void NAME(const char *x, Py_ssize_t rows, Py_ssize_t positions, Py_ssize_t channels, wide *s,        \
                            wide *q, double *mean, double *sq_dev) {                                                   \
        for (Py_ssize_t r = 0; r < rows; r++)                                                                          \
            interleaved_row(x, r * positions * channels, positions, channels, TYPE, s, q, mean + r * channels,         \
                            sq_dev + r * channels);                                                                    \
    }
INTERLEAVED(interleaved_float32, FLOAT32)
INTERLEAVED(interleaved_float64, FLOAT64)
INTERLEAVED(interleaved_float16, FLOAT16)
INTERLEAVED(interleaved_bfloat16, BFLOAT16)

static const Py_ssize_t ITEM_BYTES[] = {[FLOAT32] = 4, [FLOAT64] = 8, [FLOAT16] = 2, [BFLOAT16] = 2};

/* The three buffers of a call, held until release(). */
typedef struct {
    Py_buffer x, mean, sq_dev;
} Buffers;

static void release(Buffers *b) {
    PyBuffer_Release(&b->x);
    PyBuffer_Release(&b->mean);
    PyBuffer_Release(&b->sq_dev);
}

/* Check that the buffers hold what the sizes promise: the loops above trust them. */
static int fits(const Buffers *b, int type, Py_ssize_t values, Py_ssize_t results) {
    if (type < FLOAT32 || type > BFLOAT16) {
        PyErr_SetString(PyExc_ValueError, "unknown element type");
        return 0;
    }
    if (values < 1 || b->x.len / ITEM_BYTES[type] != values || b->mean.len != results * (Py_ssize_t)sizeof(double) ||
        b->sq_dev.len != results * (Py_ssize_t)sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "buffer sizes do not match the shape");
        return 0;
    }
    return 1;
}

/* The product of two positive sizes, or -1 where one is not positive or it does not fit. */
static Py_ssize_t product(Py_ssize_t a, Py_ssize_t b) { return a > 0 && b > 0 && a <= PY_SSIZE_T_MAX / b ? a * b : -1; }

/* A reduction that is divided among threads: each takes `step` rows at a time until none is left. */
typedef struct {
    const char *x;
    double *mean, *sq_dev;
    int type;
    Py_ssize_t rows, positions, channels; /* planar rows have one channel */
    Py_ssize_t step, taken;
    char *partial; /* partial sums of interleaved rows: `partial_bytes` twice for each thread */
    size_t partial_bytes;
    int joined;
} Job;

static void reduce_some(const Job *job, Py_ssize_t from, Py_ssize_t rows, int thread) {
    const char *x = job->x + from * job->positions * job->channels * ITEM_BYTES[job->type];
    double *mean = job->mean + from * job->channels, *sq_dev = job->sq_dev + from * job->channels;
    if (job->channels == 1) {
        switch (job->type) {
        case FLOAT64: planar_float64(x, rows, job->positions, mean, sq_dev); break;
        case FLOAT16: planar_float16(x, rows, job->positions, mean, sq_dev); break;
        case BFLOAT16: planar_bfloat16(x, rows, job->positions, mean, sq_dev); break;
        default: planar_float32(x, rows, job->positions, mean, sq_dev);
        }
        return;
    }
    wide *s = (wide *)(job->partial + 2 * job->partial_bytes * (size_t)thread);
    wide *q = (wide *)((char *)s + job->partial_bytes);
    switch (job->type) {
    case FLOAT64: interleaved_float64(x, rows, job->positions, job->channels, s, q, mean, sq_dev); break;
    case FLOAT16: interleaved_float16(x, rows, job->positions, job->channels, s, q, mean, sq_dev); break;
    case BFLOAT16: interleaved_bfloat16(x, rows, job->positions, job->channels, s, q, mean, sq_dev); break;
    default: interleaved_float32(x, rows, job->positions, job->channels, s, q, mean, sq_dev);
    }
}

/* What one thread does. Rows are taken from the end: an operator wrote them last, so they may still be in a cache. */
static void take_part(void *data) {
    Job *job = data;
    int thread = __atomic_fetch_add(&job->joined, 1, __ATOMIC_RELAXED);
    for (;;) {
        Py_ssize_t stop = job->rows - __atomic_fetch_add(&job->taken, job->step, __ATOMIC_RELAXED);
        if (stop <= 0) return;
        Py_ssize_t from = stop > job->step ? stop - job->step : 0;
        reduce_some(job, from, stop - from, thread);
    }
}

/* Torch runs its operators in the threads of an OpenMP runtime, which wait for the next operator for milliseconds
   without yielding their core. Threads of any other kind would compete with them, so a reduction between two operators
   runs in the same ones. This is the function that GCC calls for "#pragma omp parallel"; it is looked up at run time,
   because each runtime has threads of its own and only the one that torch has loaded is of use. */
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

static Parallel parallel(void) {
#ifdef _WIN32
    return NULL;
#else
    Parallel found;
    void *symbol = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    memcpy(&found, &symbol, sizeof found);
    return found;
#endif
}

static PyObject *has_openmp(PyObject *module, PyObject *args) {
    (void)module, (void)args;
    return PyBool_FromLong(parallel() != NULL);
}

static PyObject *reduce(PyObject *module, PyObject *args) {
    (void)module;
    Buffers b;
    Job job = {0};
    int threads;
    if (!PyArg_ParseTuple(args, "y*w*w*innnni", &b.x, &b.mean, &b.sq_dev, &job.type, &job.rows, &job.positions,
                          &job.channels, &job.step, &threads))
        return NULL;
    Py_ssize_t results = product(job.rows, job.channels);
    if (!fits(&b, job.type, product(results, job.positions), results)) {
        release(&b);
        return NULL;
    }
    if (job.step < 1 || threads < 1) {
        PyErr_SetString(PyExc_ValueError, "step and threads must be positive");
        release(&b);
        return NULL;
    }
    Parallel run = threads > 1 ? parallel() : NULL;
    if (run == NULL) threads = 1;
    if (job.channels > 1) {
        job.partial_bytes = ((size_t)job.channels / WIDTH * UNROLL + 1) * sizeof(wide);
        job.partial = PyMem_Malloc(2 * job.partial_bytes * (size_t)threads);
        if (job.partial == NULL) {
            release(&b);
            return PyErr_NoMemory();
        }
    }
    job.x = b.x.buf, job.mean = b.mean.buf, job.sq_dev = b.sq_dev.buf;
    Py_BEGIN_ALLOW_THREADS;
    if (run != NULL)
        run(take_part, &job, (unsigned)threads, 0);
    else
        take_part(&job);
    Py_END_ALLOW_THREADS;
    PyMem_Free(job.partial);
    release(&b);
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"reduce", reduce, METH_VARARGS,
     "reduce(x, mean, sq_dev, type, rows, positions, channels, step, threads)\n--\n\n"
     "Reduce C-contiguous (rows, positions, channels) along its middle axis.\n\n"
     "With several threads and OpenMP, each takes `step` rows at a time."},
    {"has_openmp", has_openmp, METH_NOARGS,
     "has_openmp()\n--\n\nReturn whether the process has loaded an OpenMP runtime for all of its libraries."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_reduction", "Compiled reductions; see bn_ops.core.reduction.", 0, METHODS, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__reduction(void) { return PyModuleDef_Init(&MODULE); }
