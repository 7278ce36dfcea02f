// Trigonometric and hyperbolic functions, the error function's tail and remainders, in sections of the same form as
// in `kernel_math.h`, which holds what they need; coefficients and errors were found in the same way.

//: angle bits
// x = quarter * pi/2 + rest, with |rest| <= pi/4, for |x| <= 65536; then sine and cosine of the rest. Pi/2 in three
// pieces (Cody and Waite), the first product exact in a fused multiply-add.
struct Angle { float sin, cos; int32_t quarter; };
static inline Angle angle_of(float x) {
  const float t = x * 0.636619772f + 12582912.0f;
  const float n = t - 12582912.0f;
  const float high = __builtin_fmaf(n, -1.570796251e+00f, x);
  const float turn = n * 7.549789415e-08f, r = high - turn;
  const float back = r - high;  // what r lost by rounding (Knuth's sum of two), and the rest of the product
  const float lost = (high - (r - back)) - (turn + back) - __builtin_fmaf(n, 7.549789415e-08f, -turn);
  const float low = __builtin_fmaf(n, -5.390302953e-15f, lost);
  const float z = r * r;
  float s = -1.951809973e-04f;
  s = __builtin_fmaf(s, z, 8.332188241e-03f);
  s = __builtin_fmaf(s, z, -1.666665524e-01f);
  float c = 2.443255289e-05f;
  c = __builtin_fmaf(c, z, -1.388731063e-03f);
  c = __builtin_fmaf(c, z, 4.166664556e-02f);
  const float half = 0.5f * z, w = 1.0f - half;
  const float sin = __builtin_copysignf(__builtin_fmaf(s, z * r, low) + r, r);
  const float cos = __builtin_fmaf(c * z, z, __builtin_fmaf(-r, low, (1.0f - w) - half)) + w;
  return {sin, cos, to_bits(t)};
}

//: sin angle
static inline float vec_sin(float x) {  // 1 ulp for |x| <= 65536
  const Angle a = angle_of(x);
  const float y = a.quarter & 1 ? a.cos : a.sin;
  return from_bits(to_bits(y) ^ (int32_t)((uint32_t)(a.quarter & 2) << 30));
}

//: cos angle
static inline float vec_cos(float x) {  // 1 ulp for |x| <= 65536
  const Angle a = angle_of(x);
  const float y = a.quarter & 1 ? a.sin : a.cos;
  return from_bits(to_bits(y) ^ (int32_t)((uint32_t)((a.quarter + 1) & 2) << 30));
}

//: tan angle
static inline float vec_tan(float x) {  // 2 ulp for |x| <= 65536
  const Angle a = angle_of(x);
  const bool odd = a.quarter & 1;
  return (odd ? -a.cos : a.sin) / (odd ? a.sin : a.cos);
}

//: atan
static inline float vec_atan(float x) {  // 2 ulp: above 1 by atan(x) = pi/2 - atan(1 / x)
  const float a = __builtin_fabsf(x);
  const bool steep = a > 1.0f;
  const float t = steep ? 1.0f / a : a;
  const float z = t * t;
  float p = 2.919469262e-03f;
  p = __builtin_fmaf(p, z, -1.636332087e-02f);
  p = __builtin_fmaf(p, z, 4.320485890e-02f);
  p = __builtin_fmaf(p, z, -7.551665604e-02f);
  p = __builtin_fmaf(p, z, 1.066576988e-01f);
  p = __builtin_fmaf(p, z, -1.421100199e-01f);
  p = __builtin_fmaf(p, z, 1.999376714e-01f);
  p = __builtin_fmaf(p, z, -3.333315253e-01f);
  const float y = __builtin_fmaf(p * z, t, t);
  return __builtin_copysignf(steep ? 1.570796327f - y : y, x);
}

//: asin_parts
// asin(s) for s = |x| below a half, else for s = sqrt((1 - |x|) / 2): asin(x) = pi/2 - 2 asin(s), NaN for |x| > 1.
static inline float asin_part(float a) {
  const float z = a < 0.5f ? a * a : 0.5f * (1.0f - a);
  const float s = a < 0.5f ? a : std::sqrt(z);
  float p = 4.216511920e-02f;
  p = __builtin_fmaf(p, z, 2.418149821e-02f);
  p = __builtin_fmaf(p, z, 4.546964169e-02f);
  p = __builtin_fmaf(p, z, 7.495307177e-02f);
  p = __builtin_fmaf(p, z, 1.666675210e-01f);
  return __builtin_fmaf(p * z, s, s);
}

//: asin asin_parts
static inline float vec_asin(float x) {  // 2 ulp
  const float a = __builtin_fabsf(x), y = asin_part(a);
  return __builtin_copysignf(a < 0.5f ? y : __builtin_fmaf(-2.0f, y, 1.570796327f), x);
}

//: acos asin_parts
static inline float vec_acos(float x) {  // 1.5 ulp
  const float a = __builtin_fabsf(x), y = asin_part(a);
  const float near_one = x > 0.0f ? y + y : __builtin_fmaf(-2.0f, y, 3.141592654f);
  return a < 0.5f ? 1.570796327f - (__builtin_copysignf(y, x) + 4.371139e-8f) : near_one;
}

//: exp_half bits
static inline float exp_half(float x) {  // exp(x) / 2 for x >= 0, which overflows later than exp
  const float c = x > 90.0f ? 90.0f : x;
  const float t = c * 1.442695041f + 12582912.0f;
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
  const int32_t half = k >> 1;
  return p * from_bits((int32_t)((uint32_t)(half + 126) << 23)) * from_bits((int32_t)((uint32_t)(k - half + 127) << 23));
}

//: sinh exp_half
static inline float vec_sinh(float x) {  // 2 ulp: by its series below 1
  const float a = __builtin_fabsf(x), z = a * a;
  float p = 2.782267075e-06f;
  p = __builtin_fmaf(p, z, 1.984289120e-04f);
  p = __builtin_fmaf(p, z, 8.333310485e-03f);
  p = __builtin_fmaf(p, z, 1.666666716e-01f);
  const float h = exp_half(a);
  return __builtin_copysignf(a < 1.0f ? __builtin_fmaf(p * z, a, a) : h - 0.25f / h, x);
}

//: cosh exp_half
static inline float vec_cosh(float x) {  // 2 ulp
  const float h = exp_half(__builtin_fabsf(x));
  return h + 0.25f / h;
}

//: asinh log1p
static inline float vec_asinh(float x) {  // 2 ulp; log(2 |x|) where the square would overflow
  const float a = __builtin_fabsf(x), z = a * a;
  const bool big = a > 1e9f;
  const float y = vec_log1p(big ? a : a + z / (1.0f + std::sqrt(z + 1.0f)));
  return __builtin_copysignf(big ? y + 0.693147181f : y, x);
}

//: acosh log1p
static inline float vec_acosh(float x) {  // 2.5 ulp
  const float t = x - 1.0f;
  const bool big = x > 1e9f;
  const float y = vec_log1p(big ? x : t + std::sqrt(t * t + 2.0f * t));
  return x < 1.0f ? NAN : big ? y + 0.693147181f : y;
}

//: atanh log1p
static inline float vec_atanh(float x) {  // 2.5 ulp
  const float a = __builtin_fabsf(x);
  return __builtin_copysignf(0.5f * vec_log1p((a + a) / (1.0f - a)), x);
}

//: erfc exp
static inline float vec_erfc(float x) {  // 4.9 ulp, also in the tail: exp(-x^2) with the square in two pieces
  float a = __builtin_fabsf(x);
  a = a > 10.2f ? 10.2f : a;  // erfc(10.2) rounds to 0
  const float t = 1.0f / __builtin_fmaf(0.4f, a, 1.0f);
  float p = -2.920760773e-02f;
  p = __builtin_fmaf(p, t, 1.959129274e-01f);
  p = __builtin_fmaf(p, t, -4.938727915e-01f);
  p = __builtin_fmaf(p, t, 5.408496261e-01f);
  p = __builtin_fmaf(p, t, -2.788897753e-01f);
  p = __builtin_fmaf(p, t, 2.691269219e-01f);
  p = __builtin_fmaf(p, t, 1.306954473e-01f);
  p = __builtin_fmaf(p, t, 2.147015035e-01f);
  p = __builtin_fmaf(p, t, 2.249781936e-01f);
  p = __builtin_fmaf(p, t, 2.257055640e-01f);
  const float square = a * a, rest = __builtin_fmaf(a, a, -square);
  const float e = vec_exp(-square);
  const float y = __builtin_fmaf(-rest, e, e) * (p * t);
  float q = 4.238824360e-03f;
  q = __builtin_fmaf(q, square, -2.643260360e-02f);
  q = __builtin_fmaf(q, square, 1.127570942e-01f);
  q = __builtin_fmaf(q, square, -3.761209249e-01f);
  q = __builtin_fmaf(q, square, 1.128379107e+00f);
  return a < 0.6f ? __builtin_fmaf(-q, x, 1.0f) : x < 0.0f ? 2.0f - y : y;  // below, by the series of erf
}

//: fmod
static inline float vec_fmod(float a, float b) {  // exact for |a / b| < 2^22: the quotient is off by one at most
  const float q = std::trunc(a / b);
  const float r = q == 0.0f ? a : __builtin_fmaf(-q, b, a);
  const bool missed = r != 0.0f && (r < 0.0f) != (a < 0.0f);
  return __builtin_copysignf(missed ? r + __builtin_copysignf(b, a) : r, a);
}

//: remainder_near fmod
static inline float vec_remainder(float a, float b) {  // with the sign of the divisor, as in Python; |a / b| < 2^22
  const float r = vec_fmod(a, b);
  return r != 0.0f && (r < 0.0f) != (b < 0.0f) ? r + b : r;
}
