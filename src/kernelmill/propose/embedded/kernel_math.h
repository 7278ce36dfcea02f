// Single-precision functions that vectorise on any ISA: branch-free, no table, no intrinsic, full semantics
// (NaN propagates, overflow gives infinity, results underflow gradually). Coefficients are minimax fits made for
// this file (Lawson-weighted least squares in double, coefficients rounded one by one); the errors given are the
// largest seen over dense sweeps against double precision. A printer copies only the sections a kernel uses.
// A section starts with `//: name` and lists the sections it needs.

//: bits
static inline int32_t to_bits(float x) { int32_t i; __builtin_memcpy(&i, &x, 4); return i; }
static inline float from_bits(int32_t i) { float x; __builtin_memcpy(&x, &i, 4); return x; }

//: exp bits
static inline float vec_exp(float x) {  // 1 ulp
  float c = x > 89.0f ? 89.0f : x;  // exp(89) is infinity, exp(-104) is zero; a NaN passes both comparisons
  c = c < -104.0f ? -104.0f : c;
  const float t = c * 1.442695041f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer, kept in the low bits
  const float n = t - 12582912.0f;
  float r = __builtin_fmaf(n, -0.693145752f, c);
  r = __builtin_fmaf(n, -1.42860677e-6f, r);
  float p = 1.382013550e-3f;
  p = __builtin_fmaf(p, r, 8.368685842e-3f);
  p = __builtin_fmaf(p, r, 4.166827351e-2f);
  p = __builtin_fmaf(p, r, 1.666652113e-1f);
  p = __builtin_fmaf(p, r, 4.999999404e-1f);
  p = __builtin_fmaf(p, r * r, r) + 1.0f;
  const int32_t k = (int32_t)((uint32_t)to_bits(t) - 0x4B400000u);
  const int32_t half = k >> 1;  // two factors, so that 2^128 and denormals come out right
  return p * from_bits((int32_t)((uint32_t)(half + 127) << 23)) * from_bits((int32_t)((uint32_t)(k - half + 127) << 23));
}

//: expm1 bits
static inline float vec_expm1(float x) {  // 1.4 ulp
  float c = x > 89.0f ? 89.0f : x;
  c = c < -18.0f ? -18.0f : c;  // expm1(-18) rounds to -1
  const float t = c * 1.442695041f + 12582912.0f;
  const float n = t - 12582912.0f;
  float r = __builtin_fmaf(n, -0.693145752f, c);
  r = __builtin_fmaf(n, -1.42860677e-6f, r);
  float p = 1.9944255e-4f;
  p = __builtin_fmaf(p, r, 1.393268583e-3f);
  p = __builtin_fmaf(p, r, 8.333208039e-3f);
  p = __builtin_fmaf(p, r, 4.166648909e-2f);
  p = __builtin_fmaf(p, r, 1.666666716e-1f);
  p = __builtin_fmaf(p, r, 0.5f);
  p = __builtin_fmaf(p, r * r, r);
  const int32_t k = (int32_t)((uint32_t)to_bits(t) - 0x4B400000u);
  const float s = from_bits((int32_t)((uint32_t)(k + 126) << 23));  // half of 2^n: 2^128 would overflow too early
  const float y = __builtin_fmaf(p, s, s - 0.5f);
  return __builtin_copysignf(n == 0.0f ? p : y + y, x);  // -0 stays -0
}

//: log bits
static inline float vec_log(float x) {  // 0.8 ulp
  const bool tiny = x < 1.17549435e-38f;  // denormals are scaled into the normal range
  const float scaled = tiny ? x * 8388608.0f : x;
  const int32_t i = to_bits(scaled);
  const int32_t e = (int32_t)((uint32_t)i - 0x3f400000u) & (int32_t)0xff800000;  // mantissa in [0.75, 1.5)
  const float f = from_bits((int32_t)((uint32_t)i - (uint32_t)e)) - 1.0f;
  const float n = (float)(e >> 23) - (tiny ? 23.0f : 0.0f);
  const float z = f * f;
  float p = 3.762928024e-2f;
  p = __builtin_fmaf(p, f, -9.109634906e-2f);
  p = __builtin_fmaf(p, f, 1.169805527e-1f);
  p = __builtin_fmaf(p, f, -1.272824109e-1f);
  p = __builtin_fmaf(p, f, 1.427668780e-1f);
  p = __builtin_fmaf(p, f, -1.665531546e-1f);
  p = __builtin_fmaf(p, f, 1.999958158e-1f);
  p = __builtin_fmaf(p, f, -2.500016391e-1f);
  p = __builtin_fmaf(p, f, 3.333334029e-1f);
  float y = __builtin_fmaf(n, 1.42860677e-6f, p * f * z);
  y = __builtin_fmaf(-0.5f, z, y) + f;
  y = __builtin_fmaf(n, 0.693145752f, y);
  y = x == INFINITY ? x : y;
  y = x > 0.0f ? y : NAN;
  return x == 0.0f ? -INFINITY : y;
}

//: log1p bits
static inline float vec_log1p(float x) {  // 0.8 ulp
  const float u = x + 1.0f;
  const int32_t e = (int32_t)((uint32_t)to_bits(u) - 0x3f400000u) & (int32_t)0xff800000;
  const float scale = from_bits((int32_t)(0x40800000u - (uint32_t)e));  // 4 * 2^-n: exact, never denormal
  const float scaled = from_bits((int32_t)((uint32_t)to_bits(x) - (uint32_t)e));  // x * 2^-n
  const float f = __builtin_fmaf(0.25f, scale, -1.0f) + scaled;  // (1 + x) * 2^-n - 1, without rounding 1 + x
  const float n = (float)(e >> 23);
  const float z = f * f;
  float p = 3.762928024e-2f;
  p = __builtin_fmaf(p, f, -9.109634906e-2f);
  p = __builtin_fmaf(p, f, 1.169805527e-1f);
  p = __builtin_fmaf(p, f, -1.272824109e-1f);
  p = __builtin_fmaf(p, f, 1.427668780e-1f);
  p = __builtin_fmaf(p, f, -1.665531546e-1f);
  p = __builtin_fmaf(p, f, 1.999958158e-1f);
  p = __builtin_fmaf(p, f, -2.500016391e-1f);
  p = __builtin_fmaf(p, f, 3.333334029e-1f);
  float y = __builtin_fmaf(n, 1.42860677e-6f, p * f * z);
  y = __builtin_fmaf(-0.5f, z, y) + f;
  y = __builtin_fmaf(n, 0.693145752f, y);
  y = x == INFINITY ? x : y;
  y = x > -1.0f ? y : NAN;
  return __builtin_copysignf(x == -1.0f ? INFINITY : y, x);  // -0 stays -0
}

//: expm1_small bits
// expm1 for -100 < c < 80: a plain power of two and no special case.
static inline float vec_expm1_small(float c) {
  const float t = c * 1.442695041f + 12582912.0f;
  const float n = t - 12582912.0f;
  float r = __builtin_fmaf(n, -0.693145752f, c);
  r = __builtin_fmaf(n, -1.42860677e-6f, r);
  float p = 1.9944255e-4f;
  p = __builtin_fmaf(p, r, 1.393268583e-3f);
  p = __builtin_fmaf(p, r, 8.333208039e-3f);
  p = __builtin_fmaf(p, r, 4.166648909e-2f);
  p = __builtin_fmaf(p, r, 1.666666716e-1f);
  p = __builtin_fmaf(p, r, 0.5f);
  p = __builtin_fmaf(p, r * r, r);
  const int32_t k = (int32_t)((uint32_t)to_bits(t) - 0x4B400000u);
  const float s = from_bits((int32_t)((uint32_t)(k + 127) << 23));
  return __builtin_fmaf(p, s, s - 1.0f);
}

//: tanh bits expm1_small
static inline float vec_tanh(float x) {  // 2.2 ulp: e / (e + 2) with e = expm1(2 |x|): no cancellation near 0 or 1
  float a = __builtin_fabsf(x);
  a = a > 10.0f ? 10.0f : a;  // tanh(10) rounds to 1
  const float e = vec_expm1_small(a + a);
  return __builtin_copysignf(e / (e + 2.0f), x);
}

//: erf bits expm1_small
static inline float vec_erf(float x) {  // 2.0 ulp: -expm1(-g) with g = -log(erfc(|x|)), which a polynomial follows well
  float a = __builtin_fabsf(x);
  a = a > 3.93f ? 3.93f : a;  // erf(3.93) rounds to 1
  float h = 4.054760575e-05f;
  h = __builtin_fmaf(h, a, -3.797666577e-04f);
  h = __builtin_fmaf(h, a, 1.248183660e-03f);
  h = __builtin_fmaf(h, a, 2.106290631e-04f);
  h = __builtin_fmaf(h, a, -1.932511106e-02f);
  h = __builtin_fmaf(h, a, 1.028155312e-01f);
  h = __builtin_fmaf(h, a, 6.366163492e-01f);
  h = __builtin_fmaf(h, a, 1.283792108e-01f);
  const float g = __builtin_fmaf(a, h, a);
  return __builtin_copysignf(-vec_expm1_small(-g), x);
}

//: exp2 bits
static inline float vec_exp2(float x) {  // 1 ulp
  float c = x > 129.0f ? 129.0f : x;  // 2^129 is infinity, 2^-151 is zero
  c = c < -151.0f ? -151.0f : c;
  const float t = c + 12582912.0f;
  const float r = (c - (t - 12582912.0f)) * 0.693147181f;
  float p = 1.382013550e-3f;
  p = __builtin_fmaf(p, r, 8.368685842e-3f);
  p = __builtin_fmaf(p, r, 4.166827351e-2f);
  p = __builtin_fmaf(p, r, 1.666652113e-1f);
  p = __builtin_fmaf(p, r, 4.999999404e-1f);
  p = __builtin_fmaf(p, r * r, r) + 1.0f;
  const int32_t k = (int32_t)((uint32_t)to_bits(t) - 0x4B400000u);
  const int32_t half = k >> 1;
  return p * from_bits((int32_t)((uint32_t)(half + 127) << 23)) * from_bits((int32_t)((uint32_t)(k - half + 127) << 23));
}

//: log_parts bits
// Exponent n of x = 2^n (1 + f), with f between -0.25 and 0.5, and log(1 + f).
struct LogParts { float n, rest; };
static inline LogParts log_parts(float x) {
  const bool tiny = x < 1.17549435e-38f;
  const float scaled = tiny ? x * 8388608.0f : x;
  const int32_t i = to_bits(scaled);
  const int32_t e = (int32_t)((uint32_t)i - 0x3f400000u) & (int32_t)0xff800000;
  const float f = from_bits((int32_t)((uint32_t)i - (uint32_t)e)) - 1.0f;
  const float z = f * f;
  float p = 3.762928024e-2f;
  p = __builtin_fmaf(p, f, -9.109634906e-2f);
  p = __builtin_fmaf(p, f, 1.169805527e-1f);
  p = __builtin_fmaf(p, f, -1.272824109e-1f);
  p = __builtin_fmaf(p, f, 1.427668780e-1f);
  p = __builtin_fmaf(p, f, -1.665531546e-1f);
  p = __builtin_fmaf(p, f, 1.999958158e-1f);
  p = __builtin_fmaf(p, f, -2.500016391e-1f);
  p = __builtin_fmaf(p, f, 3.333334029e-1f);
  return {(float)(e >> 23) - (tiny ? 23.0f : 0.0f), __builtin_fmaf(-0.5f, z, p * f * z) + f};
}

//: log2 log_parts
static inline float vec_log2(float x) {  // 1.9 ulp; exact for powers of two
  const LogParts part = log_parts(x);
  float y = __builtin_fmaf(part.rest, 1.442695041f, part.n);
  y = x == INFINITY ? x : y;
  y = x > 0.0f ? y : NAN;
  return x == 0.0f ? -INFINITY : y;
}

//: log10 log_parts
static inline float vec_log10(float x) {  // 2.6 ulp; log10(2) in two pieces, the first exact times any exponent
  const LogParts part = log_parts(x);
  float y = __builtin_fmaf(part.n, 4.605038981e-6f, part.rest * 0.4342944819f);
  y = __builtin_fmaf(part.n, 0.301025390625f, y);
  y = x == INFINITY ? x : y;
  y = x > 0.0f ? y : NAN;
  return x == 0.0f ? -INFINITY : y;
}

//: pow
static inline int64_t to_long(double x) { int64_t i; __builtin_memcpy(&i, &x, 8); return i; }
static inline double from_long(int64_t i) { double x; __builtin_memcpy(&x, &i, 8); return x; }
// 0.5 ulp: exp(y log |x|) in double precision, by the series of atanh and of exp; special values as in C.
static inline float vec_pow(float x, float y) {
  const double a = __builtin_fabsf(x);
  const int64_t i = to_long(a);
  const uint64_t biased = ((uint64_t)i - 0x3fe6a09e667f3bcdu + 0x3ff0000000000000u) >> 52;  // mantissa in [0.71, 1.42)
  const double n = from_long((int64_t)(biased | 0x4330000000000000u)) - 4503599627371519.0;  // 2^52 + 1023
  const double f = from_long((int64_t)((uint64_t)i - ((biased - 1023u) << 52))) - 1.0;
  const double s = f / (f + 2.0), z = s * s;
  double p = 2.0 / 13;
  p = p * z + 2.0 / 11;
  p = p * z + 2.0 / 9;
  p = p * z + 2.0 / 7;
  p = p * z + 2.0 / 5;
  p = p * z + 2.0 / 3;
  p = p * z + 2.0;
  const double l = n * 0.69314718055994531 + p * s;
  double w = l == 0.0 ? 0.0 : (double)y * l;
  w = w > 90.0 ? 90.0 : w;  // more than a float holds
  w = w < -105.0 ? -105.0 : w;
  const double t = w * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
  const double r = w - (t - 6755399441055744.0) * 0.69314718055994531;
  double q = 1.0 / 3628800;
  q = q * r + 1.0 / 362880;
  q = q * r + 1.0 / 40320;
  q = q * r + 1.0 / 5040;
  q = q * r + 1.0 / 720;
  q = q * r + 1.0 / 120;
  q = q * r + 1.0 / 24;
  q = q * r + 1.0 / 6;
  q = q * r + 0.5;
  q = q * r + 1.0;
  q = q * r + 1.0;
  float v = (float)from_long((int64_t)((uint64_t)to_long(q) + ((uint64_t)to_long(t) << 52)));
  v = x == 0.0f || a == INFINITY ? ((x == 0.0f) == (y < 0.0f) ? INFINITY : 0.0f) : v;
  const bool whole = std::floor(y) == y, odd = whole && std::floor(0.5f * y) != 0.5f * y;
  v = odd ? __builtin_copysignf(v, x) : v;
  v = x < 0.0f && a != INFINITY && !whole ? NAN : v;
  v = x != x || y != y ? NAN : v;
  return x == 1.0f || y == 0.0f ? 1.0f : v;
}

//: max_nan
// The larger of two; a NaN wins, as in PyTorch. Two selections: with one over two comparisons, g++ 12 gives up on a
// chain of them and leaves the loop scalar. The test is of b, so that it folds away where b is a literal.
template <class T> static inline T max_nan(T a, T b) { const T m = a < b ? b : a; return b != b ? b : m; }
#pragma omp declare reduction(max_nan : float : omp_out = max_nan(omp_out, omp_in)) initializer(omp_priv = -INFINITY)
#pragma omp declare reduction(max_nan : double : omp_out = max_nan(omp_out, omp_in)) initializer(omp_priv = -INFINITY)

//: min_nan
// The smaller of two; a NaN wins, as in PyTorch.
template <class T> static inline T min_nan(T a, T b) { const T m = a > b ? b : a; return b != b ? b : m; }
#pragma omp declare reduction(min_nan : float : omp_out = min_nan(omp_out, omp_in)) initializer(omp_priv = INFINITY)
#pragma omp declare reduction(min_nan : double : omp_out = min_nan(omp_out, omp_in)) initializer(omp_priv = INFINITY)

//: min_number
// The smaller of two; a NaN loses.
template <class T> static inline T min_number(T a, T b) { const T m = a < b ? a : b; return b != b ? a : m; }

//: sign
template <class T> static inline T sign_of(T x) { return (T)((T(0) < x) - (x < T(0))); }

//: remainder
// The remainder with the sign of the divisor, as in Python.
static inline float remainder_floor(float a, float b) { float r = std::fmod(a, b); return r != 0 && (r < 0) != (b < 0) ? r + b : r; }
static inline double remainder_floor(double a, double b) { double r = std::fmod(a, b); return r != 0 && (r < 0) != (b < 0) ? r + b : r; }
template <class T> static inline T remainder_floor(T a, T b) { T r = a % b; return r != 0 && (r < 0) != (b < 0) ? r + b : r; }

//: stream
// A block of `N` floats is stored past the cache, where the machine can: for outputs that nobody reads soon. A store
// into the cache would read the line first. `stream_done` makes such stores visible to other threads.
template <int N> static inline void stream_out(float* to, const float* block) {
#ifdef __AVX__
  typedef float eight __attribute__((vector_size(32), may_alias));
  if (((uintptr_t)to & 31) == 0) {
#ifdef __clang__
    for (int i = 0; i < N; i += 8) __builtin_nontemporal_store(*(const eight*)(block + i), (eight*)(to + i));
#else
    for (int i = 0; i < N; i += 8) __builtin_ia32_movntps256(to + i, *(const eight*)(block + i));
#endif
    return;
  }
#endif
  for (int i = 0; i < N; i++) to[i] = block[i];
}
static inline void stream_done() {
#ifdef __AVX__
  __builtin_ia32_sfence();
#endif
}

//: fetch
// Ask for the block of `N` floats that will be read some 2 KiB later.
template <int N> static inline void fetch_ahead(const float* from) {
  for (int i = 0; i < N; i += 16) __builtin_prefetch(from + 512 + i);
}
