// How numbers are transformed, multiplied and summed up: what the template argument `Products` says.

#pragma once

#include "formats.h"

// Transforms and sums in float32, whose range needs no scale.
struct FloatProducts {
  using Values = Vector;  // what transforms work with, kValues numbers at once
  using Sum = Vector;
  using Product = float;  // what a sum becomes in memory
  static constexpr int kValues = kLanes;
  static constexpr int kPanel = 16;  // channels, and filters, lie in panels
  static constexpr int kVectors = kPanel / kLanes;  // of sums for a panel
  static constexpr int kPanelsAtOnce = 2 / kVectors;
  static constexpr int64_t kMostAdded = int64_t{1} << 32;  // channels in one sum
  static constexpr bool kScaled = false;
  struct Scale {};

  // The scale of a tile, of all its channels.
  template <int kSide, class Number>
  static Scale scale_of(const Number* const (&)[kSide][kSide], int64_t) {
    return {};
  }
  template <class Format>
  static Values load_pixel(const typename Format::Number* from, Scale) {
    return Format::load(from);
  }
  template <class Format>
  static void store_pixel(typename Format::Number* to, Values values, Scale, float,
                          const float* bias) {
    Format::store(to, values + load_floats(bias));
  }
  static Values load_product(const Product* from) { return load_floats(from); }
  // Stores a panel's sums, or adds them to those of other channels.
  static void store_sums(Product* to, const Sum (&sums)[kVectors], bool add) {
    for (int vector = 0; vector < kVectors; ++vector, to += kLanes)
      store_floats(to, add ? load_floats(to) + sums[vector] : sums[vector]);
  }
  // Which of a panel's filters a vector's lane belongs to.
  static constexpr int filter_of(int vector, int lane) { return vector * kLanes + lane; }
};

// In what the products differ: the format of the factors, and `kTogether` of their products that
// one instruction adds up.
struct Float32Products : FloatProducts {
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
struct BFloat16Products : FloatProducts {
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
