// Vectors of float32, and the formats that numbers have in memory.

#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

inline Vector load_floats(const float* from) {
  Vector values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

inline void store_floats(float* to, Vector values) { std::memcpy(to, &values, sizeof values); }

// How numbers lie in memory.
struct Float32 {
  using Number = float;
  static Vector load(const Number* from) { return load_floats(from); }
  static void store(Number* to, Vector values) { store_floats(to, values); }
};

#ifdef __AVX512BF16__
inline __m256i rounded(Vector values) { return (__m256i)_mm512_cvtneps_pbh((__m512)values); }

struct BFloat16 {
  using Number = uint16_t;
  static Vector load(const Number* from) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
  }
  static void store(Number* to, Vector values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded(values));
  }
};
#endif

// How numbers are multiplied: the format of the factors, and `kTogether` of their products that one
// instruction adds up. Sums are in float32.
struct Float32Products {
  using Factor = float;
  using Factors = Vector;
  static constexpr int kTogether = 1;

  static Factors load(const Factor* from) { return load_floats(from); }
  static Factors repeat(const Factor* one) { return *one - Factors{}; }
  static void store(Factor* to, Vector values) { store_floats(to, values); }
  // Stores kTogether vectors, the numbers that will be added up side by side.
  static void store_together(Factor* to, const Vector* values) { store(to, values[0]); }
  static Vector multiply_add(Vector sum, Factors one, Factors many) { return sum + one * many; }
};

#ifdef __AVX512BF16__
struct BFloat16Products {
  using Factor = uint16_t;
  using Factors = __m512bh;
  static constexpr int kTogether = 2;

  static Factors load(const Factor* from) { return (Factors)_mm512_loadu_si512(from); }
  static Factors repeat(const Factor* one) {
    int32_t pair;
    std::memcpy(&pair, one, sizeof pair);
    return (Factors)_mm512_set1_epi32(pair);
  }
  static void store(Factor* to, Vector values) { BFloat16::store(to, values); }
  static void store_together(Factor* to, const Vector* values) {
    const __m512i even = _mm512_cvtepu16_epi32(rounded(values[0]));
    const __m512i odd = _mm512_cvtepu16_epi32(rounded(values[1]));
    _mm512_storeu_si512(to, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
  }
  static Vector multiply_add(Vector sum, Factors one, Factors many) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, one, many);
  }
};
#endif
