// Products, sums and transforms in float16, of which an instruction takes twice as many as of
// float32. Of bfloat16 images: every tile, and all kernels together, are scaled by a power of two so
// that nothing exceeds float16's range, however the numbers fall, and the outputs are scaled back.

#pragma once

#include "formats.h"

#if defined(__AVX512FP16__) && defined(__AVX512BF16__)
#define HAS_FLOAT16

#include <algorithm>
#include <limits>

// A vector of float16 numbers.
struct Halves {
  typedef _Float16 Numbers __attribute__((vector_size(64)));
  Numbers numbers;
};

inline Halves operator+(Halves one, Halves other) { return {one.numbers + other.numbers}; }
inline Halves operator-(Halves one, Halves other) { return {one.numbers - other.numbers}; }
inline Halves operator*(float by, Halves values) {
  return {static_cast<_Float16>(by) * values.numbers};
}

struct Float16Products {
  using Values = Halves;
  using Factor = _Float16;
  using Factors = __m512h;
  using Sum = __m512h;
  using Product = _Float16;
  static constexpr int kValues = 32, kPanel = 32, kVectors = 2, kPanelsAtOnce = 1, kTogether = 2;
  // More would round more: half of so many channels are one sum, the other half another.
  static constexpr int64_t kMostAdded = 128;
  static constexpr bool kScaled = true;
  struct Scale {
    int exponents;  // by so many a tile's numbers are made smaller
    float inverse;
  };

  // The transforms of an image, of kernels below 1/8 and of points make numbers at most 2^9 times
  // as large, and sums as many times as there are channels.
  static int largest_exponent(int64_t channels) {
    int exponent = 6;
    while (channels > 1) channels = (channels + 1) / 2, --exponent;
    return exponent;
  }

  template <int kSide>
  static Scale scale_of(const uint16_t* const (&pixels)[kSide][kSide], int64_t channels) {
    const __m512i no_sign = _mm512_set1_epi16(0x7fff);
    __m512i largest = _mm512_setzero_si512();
    for (int64_t channel = 0; channel < channels; channel += kValues)
      for (int y = 0; y < kSide; ++y)
        for (int x = 0; x < kSide; ++x)
          largest = _mm512_max_epu16(
              largest, _mm512_and_si512(no_sign, _mm512_loadu_si512(pixels[y][x] + channel)));
    largest = _mm512_max_epu32(_mm512_and_si512(largest, _mm512_set1_epi32(0xffff)),
                               _mm512_srli_epi32(largest, 16));
    // As they are in memory, where bfloat16's exponents begin at -127 and float16's at -15.
    const int exponent = static_cast<int>(_mm512_reduce_max_epu32(largest)) >> 7;
    const int exponents = std::max(exponent - 15 - largest_exponent(channels), 0);
    const uint32_t inverse_bits = static_cast<uint32_t>(exponents + 15) << 23;
    float inverse;
    std::memcpy(&inverse, &inverse_bits, sizeof inverse);
    // Infinity and what is no number spread over the tile.
    if (exponent == 255 || exponents > 239) inverse = std::numeric_limits<float>::quiet_NaN();
    return {exponents, inverse};
  }

  // Rounds nothing but what is 2^-14 of the largest number or less.
  template <class Format>
  static Values load_pixel(const uint16_t* from, Scale scale) {
    const __m512i numbers = _mm512_loadu_si512(from), no_sign = _mm512_set1_epi16(0x7fff);
    const __m512i smaller = _mm512_subs_epu16(
        _mm512_and_si512(numbers, no_sign),
        _mm512_set1_epi16(static_cast<short>(scale.exponents << 7)));
    constexpr int kFirstOrElse = 0xca;  // the mask's bits choose
    return {(Halves::Numbers)_mm512_ternarylogic_epi32(no_sign, _mm512_slli_epi16(smaller, 3),
                                                       numbers, kFirstOrElse)};
  }

  template <class Format>
  static void store_pixel(uint16_t* to, Values values, Scale scale, float kernel_inverse,
                          const float* bias) {
    const Vector by = scale.inverse * kernel_inverse - Vector{};
    const __m512i numbers = (__m512i)values.numbers;
    const auto low = (__m256h)_mm512_castsi512_si256(numbers);
    const auto high = (__m256h)_mm512_extracti64x4_epi64(numbers, 1);
    const Vector first = by * (Vector)_mm512_cvtxph_ps(low) + load_floats(bias);
    const Vector second = by * (Vector)_mm512_cvtxph_ps(high) + load_floats(bias + kLanes);
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
  }

  static Values load_product(const Product* from) {
    return {(Halves::Numbers)_mm512_loadu_ph(from)};
  }

  // A sum has two lanes for each filter, the first vector those of even filters.
  static constexpr int filter_of(int vector, int lane) { return 2 * lane + vector; }

  static void store_sums(Product* to, const Sum (&sums)[kVectors], bool add) {
    constexpr __mmask32 kOdd = 0xaaaaaaaa;
    const __m512i even = (__m512i)sums[0], odd = (__m512i)sums[1];
    const auto one = (__m512h)_mm512_mask_blend_epi16(kOdd, even, odd);
    const auto other = (__m512h)_mm512_rol_epi32(_mm512_mask_blend_epi16(kOdd, odd, even), 16);
    const __m512h total = _mm512_add_ph(one, other);
    _mm512_storeu_ph(to, add ? _mm512_add_ph(_mm512_loadu_ph(to), total) : total);
  }

  static Factors load(const Factor* from) { return _mm512_loadu_ph(from); }
  static Factors repeat(const Factor* one) {
    int32_t pair;
    std::memcpy(&pair, one, sizeof pair);
    return (Factors)_mm512_set1_epi32(pair);
  }
  static void store(Factor* to, Values values) { _mm512_storeu_ph(to, (__m512h)values.numbers); }
  static void store_together(Factor* to, const Vector* values) {
    const auto even = (__m256i)_mm512_cvtxps_ph((__m512)values[0]);
    const auto odd = (__m256i)_mm512_cvtxps_ph((__m512)values[1]);
    _mm512_storeu_si512(to, _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                                            _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16)));
  }
  static Sum multiply_add(Sum sum, Factors one, Factors many) {
    return _mm512_fmadd_ph(one, many, sum);
  }
};
#endif
