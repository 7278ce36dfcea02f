// Measured limits of this CPU. Usage: peaks <threads> <llc bytes>. Prints one JSON object of bytes/s and FLOP/s.
//
// Counting: a copy moves each byte twice, a triad three times (the read for ownership of the written line is not
// counted, as in STREAM); one fused multiply-add is two operations. The best of several repetitions is reported,
// since a limit is what nothing can exceed.

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#else
constexpr int kWidth = 8;  // the compiler splits it where the registers are narrower
#endif
typedef float Vector __attribute__((vector_size(kWidth * sizeof(float)), aligned(sizeof(float)), may_alias));

constexpr int kChains = 12;  // two FMA units x latency 4 to 5, and few enough to stay in 16 registers

volatile float sink;

double now() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

template <typename Body>
double best_seconds(int threads, double limit, Body body) {
    double best = 1e30;
    const double end = now() + limit;
    for (int repetition = 0; repetition < 3 || now() < end; ++repetition) {
        double seconds = 0;
#pragma omp parallel num_threads(threads)
        {
#pragma omp barrier
            const double start = now();
            body(omp_get_thread_num(), omp_get_num_threads());
#pragma omp barrier
#pragma omp master
            seconds = now() - start;
        }
        best = std::min(best, seconds);
    }
    return best;
}

struct Range {
    size_t begin, end;
};

Range share(size_t count, int thread, int threads) {
    const size_t vectors = count / kWidth, each = (vectors + threads - 1) / threads;
    const size_t begin = std::min(vectors, each * thread), end = std::min(vectors, begin + each);
    return {begin * kWidth, end * kWidth};
}

float sum(const float* x, Range range) {
    Vector total[8] = {};
    size_t i = range.begin;
    for (; i + 8 * kWidth <= range.end; i += 8 * kWidth)
        for (int k = 0; k < 8; ++k) total[k] += *reinterpret_cast<const Vector*>(x + i + k * kWidth);
    float result = 0;
    for (int k = 0; k < 8; ++k)
        for (int lane = 0; lane < kWidth; ++lane) result += total[k][lane];
    return result;
}

float multiply_add(long steps, float seed) {
    Vector chain[kChains], factor, term;
    for (int lane = 0; lane < kWidth; ++lane) factor[lane] = 0.999f + seed, term[lane] = 0.001f;
    for (int k = 0; k < kChains; ++k) chain[k] = factor * static_cast<float>(k);
    for (long step = 0; step < steps; ++step)
#pragma GCC unroll 12
        for (int k = 0; k < kChains; ++k) chain[k] = chain[k] * factor + term;
    float result = 0;
    for (int k = 0; k < kChains; ++k) result += chain[k][k % kWidth];
    return result;
}

double copy_rate(const float* a, float* c, size_t count, int threads, double limit) {
    const double seconds = best_seconds(threads, limit, [=](int thread, int of) {
        const Range range = share(count, thread, of);
#if defined(__AVX__)
        // Streaming stores: without them each written line is first read, a third of the traffic.
        for (size_t i = range.begin; i < range.end; i += 8) {
            typedef float Line __attribute__((vector_size(32)));
            Line line = *reinterpret_cast<const Line*>(a + i);
            __builtin_ia32_movntps256(c + i, line);
        }
        __builtin_ia32_sfence();
#else
        std::copy(a + range.begin, a + range.end, c + range.begin);
#endif
    });
    return 2.0 * count * sizeof(float) / seconds;
}

double triad_rate(const float* a, const float* b, float* c, size_t count, int threads, double limit) {
    const double seconds = best_seconds(threads, limit, [=](int thread, int of) {
        const Range range = share(count, thread, of);
        for (size_t i = range.begin; i < range.end; ++i) c[i] = a[i] + 3.0f * b[i];
    });
    return 3.0 * count * sizeof(float) / seconds;
}

double read_rate(const float* a, size_t count, int rounds, int threads, double limit) {
    const double seconds = best_seconds(threads, limit, [=](int thread, int of) {
        const Range range = share(count, thread, of);
        for (int round = 0; round < rounds; ++round) sink = sum(a, range);
    });
    return 1.0 * rounds * count * sizeof(float) / seconds;
}

double fma_rate(int threads, double limit) {
    const long steps = 400000;
    const double seconds = best_seconds(threads, limit, [=](int, int) { sink = multiply_add(steps, sink * 1e-30f); });
    return 2.0 * kWidth * kChains * steps * threads / seconds;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const int threads = std::max(1, std::atoi(argv[1]));
    const size_t llc = std::max(1L << 20, std::atol(argv[2]));
    const size_t bytes = std::min<size_t>(std::max<size_t>(3 * llc, 64ul << 20), 512ul << 20) / 4096 * 4096;
    const size_t count = bytes / sizeof(float);
    float* a = static_cast<float*>(std::aligned_alloc(4096, bytes));
    float* b = static_cast<float*>(std::aligned_alloc(4096, bytes));
    float* c = static_cast<float*>(std::aligned_alloc(4096, bytes));
    if (!a || !b || !c) return 3;
#pragma omp parallel num_threads(threads)
    {
        const Range range = share(count, omp_get_thread_num(), omp_get_num_threads());
        for (size_t i = range.begin; i < range.end; ++i) a[i] = i % 97, b[i] = i % 89, c[i] = 0;
    }
    // Half of the last level, so that other tenants of a shared cache do not push it out; past the private levels.
    const size_t resident = llc / 2 / sizeof(float);
    std::printf(
        "{\"copy_bytes\": %.6g, \"triad_bytes\": %.6g, \"read_bytes\": %.6g, \"copy_bytes_one\": %.6g, "
        "\"fma_flops\": %.6g, \"fma_flops_one\": %.6g, \"llc_read_bytes\": %.6g}\n",
        copy_rate(a, c, count, threads, 0.25), triad_rate(a, b, c, count, threads, 0.25),
        read_rate(a, count, 1, threads, 0.25), copy_rate(a, c, count, 1, 0.25), fma_rate(threads, 0.2),
        fma_rate(1, 0.1), read_rate(a, resident, 8, threads, 0.25));
    return 0;
}
