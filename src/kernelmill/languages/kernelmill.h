// What every C++ candidate may use without including it. Precompiled once per compiler and flags.
#ifndef KERNELMILL_H
#define KERNELMILL_H

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef KERNELMILL_MORE
#include <array>
#include <complex>
#include <numeric>

#include <omp.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#endif

// Half-precision storage. Arithmetic is done in float: both convert to and from it, rounding to nearest even.
struct bfloat16 {
    uint16_t bits;
    bfloat16() = default;
    bfloat16(float value) {
        uint32_t u;
        std::memcpy(&u, &value, 4);
        bits = value != value ? 0x7fc0 : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
    operator float() const {
        uint32_t u = static_cast<uint32_t>(bits) << 16;
        float value;
        std::memcpy(&value, &u, 4);
        return value;
    }
};

struct float16 {
    uint16_t bits;
    float16() = default;
    float16(float value) {
        uint32_t u;
        std::memcpy(&u, &value, 4);
        const uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
        if (magnitude > 0x7f800000u) {
            bits = static_cast<uint16_t>(sign | 0x7e00u);
        } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more
            bits = static_cast<uint16_t>(sign | 0x7c00u);
        } else if (magnitude < 0x38800000u) {  // denormal or zero: let the float unit round at bit 2^-24
            float positive;
            std::memcpy(&positive, &magnitude, 4);
            const float shifted = positive + 0.5f;
            uint32_t v;
            std::memcpy(&v, &shifted, 4);
            bits = static_cast<uint16_t>(sign | (v - 0x3f000000u));
        } else {
            bits = static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
        }
    }
    operator float() const {
        const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
        uint32_t u;
        float value;
        if (magnitude >= 0x7c00u) {
            u = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
        } else if (magnitude >= 0x400u) {
            u = sign | ((magnitude << 13) + 0x38000000u);
        } else {
            value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
            std::memcpy(&u, &value, 4);
            u |= sign;
        }
        std::memcpy(&value, &u, 4);
        return value;
    }
};

// Compile-time comparison of a kernel's parameters with what the launch passes to it.
namespace kernelmill {

struct any_pointer {};

template <class F>
struct signature {
    static constexpr int arity = -1;
    static constexpr bool returns_void = false;
    template <int>
    using parameter = void;
};

template <class R, class... P>
struct signature<R(P...)> {
    static constexpr int arity = sizeof...(P);
    static constexpr bool returns_void = std::is_void<R>::value;
    template <int I>
    using parameter = typename std::tuple_element<I, std::tuple<P..., void>>::type;
};

template <class P, class Wanted>
constexpr bool fits() {
    if constexpr (std::is_same<Wanted, any_pointer>::value) {
        return std::is_pointer<P>::value;
    } else if constexpr (std::is_pointer<Wanted>::value) {
        using T = std::remove_cv_t<std::remove_pointer_t<P>>;
        constexpr bool writable = !std::is_const<std::remove_pointer_t<P>>::value;
        constexpr bool may_write = !std::is_const<std::remove_pointer_t<Wanted>>::value;
        using W = std::remove_cv_t<std::remove_pointer_t<Wanted>>;
        return std::is_pointer<P>::value && (std::is_same<T, W>::value || std::is_void<T>::value) &&
               (may_write || !writable);
    } else if constexpr (std::is_same<Wanted, int64_t>::value) {
        return std::is_integral<P>::value && sizeof(P) == 8;
    } else {
        return std::is_same<std::remove_cv_t<P>, Wanted>::value;
    }
}

template <class F, int I, class Wanted>
constexpr bool parameter_fits() {
    if constexpr (I < signature<F>::arity) {
        return fits<typename signature<F>::template parameter<I>, Wanted>();
    } else {
        return true;  // a wrong number of parameters has its own message
    }
}

}  // namespace kernelmill

#endif
