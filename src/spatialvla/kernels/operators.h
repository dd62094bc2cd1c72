// The operators of this library that others of its files call, too. Each is explained where it is.

#pragma once

#include <cstdint>

// Attention's sizes, and strides of all dimensions but the last, in numbers.
struct AttentionShape {
  long batch, heads, key_heads, queries, keys, size;
  long q[3], k[3], v[3], bias[3];
};

extern "C" {

void bf16_product(const uint16_t* x, const uint16_t* w, const float* bias, uint16_t* y, long M, long N, long K, int threads);
void int8_product(const void* x, const uint8_t* w, const float* scales, const float* bias, void* y, long M, long N, long K,
                  long planes, int wide, int threads);
void int4_product(const void* x, const uint8_t* w, const float* bias, void* y, long M, long N, long K, long planes, int wide,
                  int threads);
void attention(const uint16_t* q, const uint16_t* k, const uint16_t* v, const void* bias, uint16_t* y,
               const AttentionShape* shape, float scale, float softcap, int wide, int threads);
void rms_norm(const uint16_t* x, const uint16_t* weight, uint16_t* y, long rows, long size, float eps, int threads);
void geglu(const uint16_t* x, uint16_t* y, long rows, long size, int threads);
void rotate(const uint16_t* x, const uint16_t* cos, const uint16_t* sin, uint16_t* y, long B, long N, long T, long H,
            const long* strides, int threads);
}
