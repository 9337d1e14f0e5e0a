<?php

$GLOBALS['files']['config/shop.php'] = '@RELEASE@';

return [
    'name' => 'The corner shop',
    'redis' => getenv('REDIS_SOCKET') ?: '/nonexistent',
    'queue' => 'jobs',
];
