<?php

declare(strict_types=1);

namespace Shop;

$GLOBALS['files']['src/Queue.php'] = '@RELEASE@';

final class Queue
{
    public static function connect(string $socket): \Redis
    {
        $redis = new \Redis();
        $redis->connect($socket);
        return $redis;
    }
}
