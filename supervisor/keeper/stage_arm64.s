#include "textflag.h"

// func begin(call uintptr, args *[5]uintptr) uintptr
TEXT ·begin(SB), NOSPLIT, $0-24
	MOVD call+0(FP), R8
	MOVD args+8(FP), R9
	MOVD 0(R9), R0
	MOVD 8(R9), R1
	MOVD 16(R9), R2
	MOVD 24(R9), R3
	MOVD 32(R9), R4
	SVC
	CBZ R0, child
	MOVD R0, ret+16(FP)
	RET

child: // its argument is at 8(RSP) already
	MOVD ZR, R29
	CALL ·staged(SB)
	UNDEF
