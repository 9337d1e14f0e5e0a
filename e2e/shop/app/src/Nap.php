<?php

declare(strict_types=1);

namespace Shop;

$GLOBALS['files']['src/Nap.php'] = '@RELEASE@';

/** Sleeps and notices when it is woken too early, which only a signal does. */
final class Nap
{
    public static bool $cut = false;

    public static function take(int $microseconds): void
    {
        $began = hrtime(true);
        usleep($microseconds);
        $slept = intdiv(hrtime(true) - $began, 1000);
        self::$cut = self::$cut || $slept < $microseconds - 500;
    }
}
