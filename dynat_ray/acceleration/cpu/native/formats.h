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
